// Grouped causal attention over paged keys and values with an online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022), to base 2. A row is one (query token, head of the group); rows share each page of keys while it is
// in the first cache. Included inside an ISA's namespace.
//
// Tokens are taken in segments of kSegment pages, whose results are merged in order: a row's result is the same whether
// one thread takes all segments or several share them.
//
// 8-bit pages: both products are integer dot products, exact but for the roundings that the page layout (kernels.h) and
// two more bring: queries to 8 bits per 32 components, weights to 0..255 per page. A value's scale goes into its token's
// weight: with scores in base 2, s' = s + log2(scale); e = 2^(s' - max s') weighs the quants, and e / scale counts in the
// sum of weights.

constexpr int kRows = 8;  // at a time, which share what is loaded of a page
constexpr float kNever = -3.0e38f;  // the score of what is not seen

// 2^x for finite x <= 8, 0 where that is too small; NaN stays NaN. x = n + r, |r| <= 1/2: Taylor of e^(r ln 2), to about 3e-6.
QWICK_INLINE F32 exp2(F32 x) {
  const F32 n = whole(x), r = sub(x, n);
  F32 p = set1(1.3333558146e-3f);
  p = fma(p, r, set1(9.6181291076e-3f));
  p = fma(p, r, set1(5.5504108665e-2f));
  p = fma(p, r, set1(2.4022650696e-1f));
  p = fma(p, r, set1(6.9314718056e-1f));
  p = fma(p, r, set1(1.0f));
  return times_power(p, n);
}

// The same to 8e-5, for weights that meet 8-bit or bf16 values: minimax polynomial.
QWICK_INLINE F32 rough_exp2(F32 x) {
  const F32 n = whole(x), r = sub(x, n);
  F32 p = set1(0.05517167f);
  p = fma(p, r, set1(0.24261112f));
  p = fma(p, r, set1(0.69326099f));
  p = fma(p, r, set1(0.99992807f));
  return times_power(p, n);
}

// The rows of one item, in scratch. Arrays over rows are padded so that blocks of 16 may be read and written.
struct Item {
  int rows, head_dim;
  float query_scale;  // 1 / sqrt(head_dim), to base 2
  int64_t next_page;  // pages lie anywhere, so the hardware cannot guess which one is read next; -1: none
  const float* query[kMaxQueryRows];
  int limit[kMaxQueryRows];                      // tokens this row may see
  alignas(64) float top[kMaxQueryRows + 16];     // largest score of the segment so far
  alignas(64) float sum[kMaxQueryRows][16];      // parts of the sum of 2^(score - top)
  alignas(64) float total_top[kMaxQueryRows], total_sum[kMaxQueryRows];  // over the segments before
  // queries in 8 bits, per block of 8 rows (the last may have fewer), R rows side by side
  alignas(64) int8_t quants[kMaxQueryRows * kMaxHeadDim];               // [head_dim / 4][R][4]
  float scale[kMaxQueryRows * kMaxHeadDim / kGroup];                    // [head_dim / 32][R], softmax scale included
  int32_t start[kMaxQueryRows * kMaxHeadDim / kGroup];                  // [head_dim / 32][R] -128 * sum of quants
  // queries as bf16 pages meet them: [rows][head_dim]
  alignas(64) PairElement pairs[kMaxQueryRows * kMaxHeadDim];
  // of one page
  alignas(64) float score[kMaxQueryRows][kPage];
  alignas(64) uint8_t shares[kMaxQueryRows][kPage * sizeof(float)];  // 2^(score - top): floats, PairElements or bytes
  float fade[kMaxQueryRows];          // per row: by how much the sums so far shrink, because `top` has risen
  float weight[kMaxQueryRows];        // I8: what a byte of `shares` stands for
  bool faded[kMaxQueryRows / kRows];  // per block of rows: whether any `fade` is not 1
  alignas(64) float acc[kMaxQueryRows * kMaxHeadDim];    // of the segment: [rows][head_dim]
  alignas(64) float total[kMaxQueryRows * kMaxHeadDim];  // over the segments before
};

constexpr float kLog2E = 1.44269504088896341f;

// Asks for the next page's keys and values, a part at a time so that what is read now does not have to wait: while the
// first block of rows is computed.
struct NextPage {
  const uint8_t *keys, *values;
  size_t key_part, value_part;  // bytes of each to ask for at a time

  NextPage(const Attention& a, const Item& item, int r0, size_t key_bytes, size_t value_bytes, int parts)
      : keys(nullptr), values(nullptr), key_part(key_bytes / parts), value_part(value_bytes / parts) {
    if (r0 > 0 || item.next_page < 0) return;
    keys = static_cast<const uint8_t*>(a.keys) + item.next_page * key_bytes;
    values = static_cast<const uint8_t*>(a.values) + item.next_page * value_bytes;
  }
  __attribute__((always_inline)) void ask(int part) const {
    if (!keys) return;
    for (size_t i = 0; i < key_part; i += 64) __builtin_prefetch(keys + part * key_part + i, 0, 2);
    for (size_t i = 0; i < value_part; i += 64) __builtin_prefetch(values + part * value_part + i, 0, 2);
  }
};

// ---- blocks of rows --------------------------------------------------------------------------------------

template <int R>
struct Block {
  static constexpr int rows = R;
};

// job(Block<R>, r0, tokens) for the rows r0..r0+R-1, the last block's fewer than kRows. tokens: the most tokens of the
// page from `first` on that any of them sees; not called where that is none.
template <int R, class Job>
QWICK_INLINE void one_block(const Item& item, int first, int r0, const Job& job) {
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    const int seen = item.limit[r0 + r] - first;
    tokens = seen > tokens ? seen : tokens;
  }
  if (tokens > 0) job(Block<R>(), r0, tokens < kPage ? tokens : kPage);
}
template <int R, class Job>
QWICK_INLINE void last_block(const Item& item, int first, int r0, const Job& job) {
  if constexpr (R > 0) {
    if (item.rows - r0 == R) return one_block<R>(item, first, r0, job);
    last_block<R - 1>(item, first, r0, job);
  }
}
template <class Job>
QWICK_INLINE void by_blocks(const Item& item, int first, const Job& job) {
  int r0 = 0;
  for (; r0 + kRows <= item.rows; r0 += kRows) one_block<kRows>(item, first, r0, job);
  last_block<kRows - 1>(item, first, r0, job);
}

// ---- a page, whatever it holds ---------------------------------------------------------------------------
// Taken in three steps, each for all rows: what a step of one block of rows waits for, the next block's fills.

// Scores of R rows, kNever for what is not seen. Their largest raise `top`, and so `fade`.
template <int R>
struct Scores {
  F32 low[R], high[R];
  F32 here, top;  // lane r: row r's largest of this page, of the segment so far

  Scores(Item& item, int r0, int first) {
    F32 most[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      most[r] = set1(kNever);
      if (r >= R) continue;
      low[r] = load(item.score[r0 + r]);
      high[r] = load(item.score[r0 + r] + 16);
      only_seen(item.limit[r0 + r] - first, kNever, low[r], high[r]);
      most[r] = max(low[r], high[r]);
    }
    const F32 old = load_some(item.top + r0, R);
    here = row_tops(most);
    top = max(here, old);
    store_some(item.top + r0, top, R);
    store_some(item.fade + r0, exp2(sub(old, top)), R);
    item.faded[r0 / kRows] = !equal(old, top);
  }
  // `other` for the tokens from `seen` on, which may be anything.
  static __attribute__((always_inline)) void only_seen(int seen, float other, F32& low, F32& high) {
    if (seen >= kPage) return;
    low = first_lanes(low, set1(other), seen < 0 ? 0 : seen < 16 ? seen : 16);
    high = first_lanes(high, set1(other), seen < 16 ? 0 : seen - 16);
  }
};

// ---- pages of floats: float32, or bf16 in pairs -------------------------------------------------------------
// Pairs are of components where queries meet keys, of tokens where weights meet values. Where the CPU has a dot product
// of pairs, queries and weights are rounded to bf16 for it (simd/: PairElement).

struct WidePages {
  template <KV kv>
  static void page(const Attention& a, size_t page, int first, Item& item) {
    constexpr int kStep = kv == KV::BF16 ? 2 : 1;
    const size_t bytes = key_page_bytes(kv, a.head_dim);
    const uint8_t* keys = static_cast<const uint8_t*>(a.keys) + page * bytes;
    const uint8_t* values = static_cast<const uint8_t*>(a.values) + page * bytes;
    by_blocks(item, first, [&](auto block, int r0, int) {
      const NextPage next(a, item, r0, bytes, bytes, a.head_dim / kStep);
      scores<kv, block.rows>(keys, a.head_dim, item, r0, next);
    });
    by_blocks(item, first, [&](auto block, int r0, int) { softmax<kv, block.rows>(item, r0, first); });
    by_blocks(item, first, [&](auto block, int r0, int tokens) {
      weigh<kv, block.rows>(values, a.head_dim, tokens, item, r0);
    });
  }

  template <KV kv, int R>
  static void scores(const uint8_t* keys, int head_dim, Item& item, int r0, const NextPage& next) {
    F32 s[R][2];
    for (int r = 0; r < R; ++r) s[r][0] = s[r][1] = set1(0.0f);
    const PairElement* pairs = item.pairs + static_cast<size_t>(r0) * head_dim;
    for (int i = 0; i < (kv == KV::BF16 ? head_dim / 2 : head_dim); ++i, keys += 128) {
      next.ask(i);
      if constexpr (kv == KV::BF16) {
        const U8 k0 = load_bytes(keys), k1 = load_bytes(keys + 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          s[r][0] = dot_pairs(s[r][0], k0, pairs + r * head_dim + 2 * i);
          s[r][1] = dot_pairs(s[r][1], k1, pairs + r * head_dim + 2 * i);
        }
      } else {
        const float* k = reinterpret_cast<const float*>(keys);
        const F32 k0 = load(k), k1 = load(k + 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const F32 q = set1(item.query[r0 + r][i]);
          s[r][0] = fma(q, k0, s[r][0]);
          s[r][1] = fma(q, k1, s[r][1]);
        }
      }
    }
    const F32 scale = set1(item.query_scale);
    for (int r = 0; r < R; ++r) {
      store(item.score[r0 + r], mul(s[r][0], scale));
      store(item.score[r0 + r] + 16, mul(s[r][1], scale));
    }
  }

  template <KV kv, int R>
  static void softmax(Item& item, int r0, int first) {
    const Scores<R> s(item, r0, first);
    alignas(64) float tops[16];
    store(tops, s.top);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      F32 e = sub(s.low[r], set1(tops[r])), f = sub(s.high[r], set1(tops[r]));
      if constexpr (kv == KV::BF16) {
        e = rough_exp2(e), f = rough_exp2(f);
      } else {
        e = exp2(e), f = exp2(f);
      }
      Scores<R>::only_seen(item.limit[r0 + r] - first, 0.0f, e, f);
      float* sum = item.sum[r0 + r];
      store(sum, fma(load(sum), set1(item.fade[r0 + r]), add(e, f)));
      if constexpr (kv == KV::BF16) {
        auto* share = reinterpret_cast<PairElement*>(item.shares[r0 + r]);
        store_element(share, e);
        store_element(share + 16, f);
      } else {
        auto* share = reinterpret_cast<float*>(item.shares[r0 + r]);
        store(share, e);
        store(share + 16, f);
      }
    }
  }

  // acc [R][head_dim] = acc * fade + shares [R][kPage] V [kPage][head_dim]
  template <KV kv, int R>
  static void weigh(const uint8_t* values, int head_dim, int tokens, Item& item, int r0) {
    float* acc = item.acc + static_cast<size_t>(r0) * head_dim;
    for (int d = 0; d < head_dim; d += 32, acc += 32) {
      const bool wide = d + 32 <= head_dim;
      F32 o[R][2];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        o[r][0] = load(acc + r * head_dim);
        o[r][1] = wide ? load(acc + r * head_dim + 16) : set1(0.0f);
        if (!item.faded[r0 / kRows]) continue;  // by 1, most of the time
        const F32 fade = set1(item.fade[r0 + r]);
        o[r][0] = mul(o[r][0], fade);
        o[r][1] = mul(o[r][1], fade);
      }
      if constexpr (kv == KV::BF16) {
        const auto add_two = [&](int t, U8 v0, U8 v1) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const auto* share = reinterpret_cast<const PairElement*>(item.shares[r0 + r]) + t;
            o[r][0] = dot_pairs(o[r][0], v0, share);
            o[r][1] = dot_pairs(o[r][1], v1, share);
          }
        };
        const uint8_t* v = values + d * 4;
        const size_t apart = static_cast<size_t>(head_dim) * 4;
        int t = 0;
        for (; t + 2 <= tokens; t += 2, v += apart) add_two(t, load_bytes(v), load_bytes(wide ? v + 64 : v));
        // what lies behind the last may be anything
        if (t < tokens) add_two(t, first_of_pairs(load_bytes(v)), first_of_pairs(load_bytes(wide ? v + 64 : v)));
      } else {
        const float* v = reinterpret_cast<const float*>(values) + d;
        for (int t = 0; t < tokens; ++t, v += head_dim) {
          const F32 v0 = load(v), v1 = wide ? load(v + 16) : v0;
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const F32 w = set1(reinterpret_cast<const float*>(item.shares[r0 + r])[t]);
            o[r][0] = fma(w, v0, o[r][0]);
            o[r][1] = fma(w, v1, o[r][1]);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        store(acc + r * head_dim, o[r][0]);
        if (wide) store(acc + r * head_dim + 16, o[r][1]);
      }
    }
  }
};

// ---- pages of 8-bit numbers ------------------------------------------------------------------------------

// Queries of R rows in 8 bits.
static void quantize_queries(Item& item, int r0, int R) {
  const int groups = item.head_dim / kGroup;
  int8_t* quants = item.quants + r0 * item.head_dim;
  for (int r = 0; r < R; ++r) {
    const float* x = item.query[r0 + r];
    for (int g = 0; g < groups; ++g, x += kGroup) {
      const F32 u = load(x), v = load(x + 16);
      const float amax = unordered(u, v) ? __builtin_nanf("") : reduce_max(max(abs(u), abs(v)));
      const F32 inverse = set1(amax > 0 ? 127.0f / amax : 0.0f);
      const I32 i = round_to_int(mul(u, inverse)), j = round_to_int(mul(v, inverse));
      int8_t bytes[kGroup];
      store_i8(bytes, i);
      store_i8(bytes + 16, j);
      for (int t = 0; t < 8; ++t) memcpy(quants + ((g * 8 + t) * R + r) * 4, bytes + 4 * t, 4);
      item.scale[r0 * groups + g * R + r] = amax / 127.0f * item.query_scale;
      item.start[r0 * groups + g * R + r] = -128 * (reduce_add(i) + reduce_add(j));
    }
  }
}

struct BytePages {
  template <KV>
  static void page(const Attention& a, size_t page, int first, Item& item) {
    const uint8_t* keys = static_cast<const uint8_t*>(a.keys) + page * key_page_bytes(KV::I8, a.head_dim);
    const uint8_t* values = static_cast<const uint8_t*>(a.values) + page * value_page_bytes(KV::I8, a.head_dim);
    const float* value_scales = reinterpret_cast<const float*>(values + kPage * a.head_dim);
    by_blocks(item, first, [&](auto block, int r0, int) {
      const NextPage next(a, item, r0, key_page_bytes(KV::I8, a.head_dim), value_page_bytes(KV::I8, a.head_dim), a.head_dim / 4);
      scores<block.rows>(keys, value_scales, a.head_dim / kGroup, item, r0, next);
    });
    by_blocks(item, first, [&](auto block, int r0, int) { softmax<block.rows>(value_scales + kPage, item, r0, first); });
    by_blocks(item, first, [&](auto block, int r0, int tokens) {
      weigh<block.rows>(values, a.head_dim, (tokens + 3) / 4, item, r0);
    });
  }

  // Scores of R rows, the logarithms of the values' scales included.
  template <int R>
  static void scores(const uint8_t* keys, const float* log_scales, int groups, Item& item, int r0, const NextPage& next) {
    const float* key_scales = reinterpret_cast<const float*>(keys + groups * kGroup * kPage);
    const int8_t* q = item.quants + r0 * groups * kGroup;
    const float* scale = item.scale + r0 * groups;
    const int32_t* begin = item.start + r0 * groups;
    float* score = item.score[r0];
    for (int g = 0; g < groups; ++g, scale += R, begin += R, key_scales += kPage) {
      I32 t[R][2];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) t[r][0] = t[r][1] = set1(begin[r]);
#pragma GCC unroll 8
      for (int step = 0; step < 8; ++step, keys += 4 * kPage, q += 4 * R) {
        next.ask(8 * g + step);
        const U8 k0 = load_bytes(keys), k1 = load_bytes(keys + 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          t[r][0] = dot<true>(t[r][0], k0, q + 4 * r);
          t[r][1] = dot<true>(t[r][1], k1, q + 4 * r);
        }
      }
      const F32 k0 = load(key_scales), k1 = load(key_scales + 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float* before = g ? score + r * kPage : log_scales;
        const F32 by = set1(scale[r]);
        store(score + r * kPage, fma(mul(to_float(t[r][0]), k0), by, load(before)));
        store(score + r * kPage + 16, fma(mul(to_float(t[r][1]), k1), by, load(before + 16)));
      }
    }
  }

  // Weights as bytes, 255 for the page's largest, and what one stands for.
  template <int R>
  static void softmax(const float* inverse_scales, Item& item, int r0, int first) {
    const Scores<R> s(item, r0, first);
    alignas(64) float zero[16];
    store(zero, sub(s.here, set1(7.99435343686f)));  // log2(255)
    store_some(item.weight + r0, mul(exp2(sub(s.here, s.top)), set1(1.0f / 255.0f)), R);
    const F32 inverse0 = load(inverse_scales), inverse1 = load(inverse_scales + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int seen = item.limit[r0 + r] - first;
      F32 e = rough_exp2(sub(s.low[r], set1(zero[r]))), f = rough_exp2(sub(s.high[r], set1(zero[r])));
      F32 sum_e = mul(e, inverse0), sum_f = mul(f, inverse1);
      Scores<R>::only_seen(seen, 0.0f, e, f);
      Scores<R>::only_seen(seen, 0.0f, sum_e, sum_f);
      float* sum = item.sum[r0 + r];
      store(sum, fma(add(sum_e, sum_f), set1(item.weight[r0 + r]), mul(load(sum), set1(item.fade[r0 + r]))));
      store_u8(item.shares[r0 + r], round_to_int(e));
      store_u8(item.shares[r0 + r] + 16, round_to_int(f));
    }
  }

  // acc [R][head_dim] = acc * fade + weight * (bytes V)
  template <int R>
  static void weigh(const uint8_t* values, int head_dim, int steps, Item& item, int r0) {
    float* acc = item.acc + static_cast<size_t>(r0) * head_dim;
    for (int d = 0; d < head_dim; d += 32, acc += 32) {
      I32 t[R][2];
      for (int r = 0; r < R; ++r) t[r][0] = t[r][1] = set1(0);
      for (int step = 0; step < steps; ++step) {
        const uint8_t* v = values + (static_cast<size_t>(step) * head_dim + d) * 4;
        const U8 v0 = load_bytes(v), v1 = load_bytes(v + 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          t[r][0] = dot_signed(t[r][0], v0, item.shares[r0 + r] + 4 * step);
          t[r][1] = dot_signed(t[r][1], v1, item.shares[r0 + r] + 4 * step);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        float* o = acc + static_cast<size_t>(r) * head_dim;
        const F32 w = set1(item.weight[r0 + r]);
        F32 before0 = load(o), before1 = load(o + 16);
        if (item.faded[r0 / kRows]) {  // else by 1, most of the time
          const F32 f = set1(item.fade[r0 + r]);
          before0 = mul(before0, f), before1 = mul(before1, f);
        }
        store(o, fma(to_float(t[r][0]), w, before0));
        store(o + 16, fma(to_float(t[r][1]), w, before1));
      }
    }
  }
};

// ---- items -----------------------------------------------------------------------------------------------

// Sums of a segment joined to those of the segments before it.
QWICK_INLINE void join(float& total_top, float& total_sum, float* total, float top, float sum, const float* acc, int d) {
  const float most = top > total_top ? top : total_top;
  alignas(64) float both[16] = {total_top - most, top - most};
  store(both, exp2(load(both)));
  const F32 a = set1(both[0]), b = set1(both[1]);
  total_top = most;
  total_sum = total_sum * both[0] + sum * both[1];
  for (int i = 0; i < d; i += 16) store(total + i, fma(load(acc + i), b, mul(load(total + i), a)));
}

QWICK_INLINE void put_row(const Attention& a, int token, int head, const float* total, float sum) {
  float* out = a.out + (static_cast<size_t>(token) * a.heads + head) * a.head_dim;
  const F32 inverse = set1(1.0f / sum);
  for (int i = 0; i < a.head_dim; i += 16) store(out + i, mul(load(total + i), inverse));
}

template <class Pages, KV kv>
static void attention_item(const Attention& a, const AttentionItem& work, Item& item) {
  const int group = a.heads / a.kv_heads, d = a.head_dim;
  const int rows = (work.q1 - work.q0) * group;
  item.rows = rows;
  item.head_dim = d;
  item.query_scale = a.scale * kLog2E;
  int most = 0;
  for (int r = 0; r < rows; ++r) {
    const int token = work.q0 + r / group, head = work.kv_head * group + r % group;
    item.query[r] = a.q + static_cast<size_t>(token) * a.q_stride + static_cast<size_t>(head) * d;
    item.limit[r] = a.positions[token] + 1;
    item.total_top[r] = kNever;
    item.total_sum[r] = 0;
    most = item.limit[r] > most ? item.limit[r] : most;
  }
  if (kv == KV::BF16)
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < d; i += 16) store_element(item.pairs + static_cast<size_t>(r) * d + i, load(item.query[r] + i));
  if (kv == KV::I8)
    for (int r = 0; r < rows; r += kRows) quantize_queries(item, r, rows - r < kRows ? rows - r : kRows);
  memset(item.total, 0, sizeof(float) * rows * d);
  const int32_t* pages = a.pages + static_cast<size_t>(work.sequence) * a.pages_stride;
  for (int segment = work.segment0; segment < work.segment1; ++segment) {
    for (int r = 0; r < rows; ++r) item.top[r] = kNever;
    memset(item.sum, 0, sizeof(item.sum[0]) * rows);
    memset(item.acc, 0, sizeof(float) * rows * d);
    const int begin = segment * kSegment * kPage, end = begin + kSegment * kPage < most ? begin + kSegment * kPage : most;
    for (int first = begin; first < end; first += kPage) {
      const size_t page = static_cast<size_t>(pages[first / kPage]) * a.kv_heads + work.kv_head;
      const bool more = first + kPage < most;
      item.next_page = more ? static_cast<int64_t>(pages[first / kPage + 1]) * a.kv_heads + work.kv_head : -1;
      Pages::template page<kv>(a, page, first, item);
    }
    for (int r = 0; r < rows; ++r) {
      const float sum = reduce_add(load(item.sum[r]));
      const float* acc = item.acc + static_cast<size_t>(r) * d;
      if (work.partial) {
        float* to = work.partial + (static_cast<size_t>(segment) * rows + r) * (d + 16);
        memcpy(to, acc, sizeof(float) * d);
        to[d] = item.top[r];
        to[d + 1] = sum;
      } else {
        join(item.total_top[r], item.total_sum[r], item.total + static_cast<size_t>(r) * d, item.top[r], sum, acc, d);
      }
    }
  }
  if (work.partial) return;
  for (int r = 0; r < rows; ++r)
    put_row(a, work.q0 + r / group, work.kv_head * group + r % group, item.total + static_cast<size_t>(r) * d,
            item.total_sum[r]);
}

static void attention(const Attention& a, const AttentionItem& work, void* scratch) {
  Item& item = *static_cast<Item*>(scratch);
  switch (a.kv) {
    case KV::F32: return attention_item<WidePages, KV::F32>(a, work, item);
    case KV::BF16: return attention_item<WidePages, KV::BF16>(a, work, item);
    case KV::I8: return attention_item<BytePages, KV::I8>(a, work, item);
  }
}

static void attention_join(const Attention& a, const AttentionItem& work) {
  const int group = a.heads / a.kv_heads, d = a.head_dim, rows = (work.q1 - work.q0) * group;
  for (int r = 0; r < rows; ++r) {
    alignas(64) float total[kMaxHeadDim] = {};
    float top = kNever, sum = 0;
    for (int segment = 0; segment < work.segment1; ++segment) {
      const float* from = work.partial + (static_cast<size_t>(segment) * rows + r) * (d + 16);
      join(top, sum, total, from[d], from[d + 1], from, d);
    }
    put_row(a, work.q0 + r / group, work.kv_head * group + r % group, total, sum);
  }
}
