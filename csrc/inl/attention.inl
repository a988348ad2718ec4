// Grouped causal attention over paged keys and values with an online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022), to base 2. A row is one (query token, head of the group); rows share each page of keys while it is
// in the first cache. Included inside an ISA's namespace.
//
// Tokens are taken in segments of kSegment pages, whose results are merged in order: a row's result is the same whether
// one thread takes all segments or several share them.
//
// 8-bit pages (KV::I8): both products are integer dot products, exact but for the roundings that the page layout
// (kernels.h) and two more bring: queries to 8 bits per 32 components, weights to 0..255 per page. The page's first key,
// from which all its keys are told as differences, meets the query in float32. A value's scale goes
// into its token's weight: with scores in base 2, s' = s + log2(scale); e = 2^(s' - max s') weighs the quants, and
// e / scale counts in the sum of weights.

constexpr float kNever = -3.0e38f;  // the score of what is not seen

// 2^x to about 3e-6 for x in [-126, 1], clamped below; NaN stays NaN. x = n + r, |r| <= 1/2: Taylor of e^(r ln 2).
QWICK_INLINE F32 exp2(F32 x) {
  x = max(set1(-126.0f), x);
  const I32 n = round_to_int(x);
  const F32 r = sub(x, to_float(n));
  F32 p = set1(1.3333558146e-3f);
  p = fma(p, r, set1(9.6181291076e-3f));
  p = fma(p, r, set1(5.5504108665e-2f));
  p = fma(p, r, set1(2.4022650696e-1f));
  p = fma(p, r, set1(6.9314718056e-1f));
  p = fma(p, r, set1(1.0f));
  return mul(p, exponent_of(n));
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
  alignas(64) float acc[kMaxQueryRows * kMaxHeadDim];    // of the segment: [rows][head_dim]
  alignas(64) float total[kMaxQueryRows * kMaxHeadDim];  // over the segments before
};

constexpr float kLog2E = 1.44269504088896341f;

// Asks for the next page's keys and values, a part at a time so that what is read now does not have to wait: the first
// block of rows does.
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

// ---- pages of floats -------------------------------------------------------------------------------------

template <bool bf16>
QWICK_INLINE F32 kv_load(const void* p, size_t at) {
  if constexpr (bf16) return load_bf16(static_cast<const uint16_t*>(p) + at);
  return load(static_cast<const float*>(p) + at);
}

// The sums of rows r0.. so far, made smaller: their largest score has risen from `old` to `top`.
QWICK_INLINE void shrink_row(Item& item, int r, float old, float top) {
  const F32 shrink = exp2(set1(old - top));
  float* row = item.acc + static_cast<size_t>(r) * item.head_dim;
  for (int d = 0; d < item.head_dim; d += 16) store(row + d, mul(load(row + d), shrink));
  store(item.sum[r], mul(load(item.sum[r]), shrink));
  item.top[r] = top;
}

// Scores of R rows against one page; softmaxed into `p` [R][kPage].
template <bool bf16, int R>
static void page_scores(const Attention& a, size_t base, Item& item, int r0, int first, float* p) {
  F32 s[R][2];
  for (int r = 0; r < R; ++r) s[r][0] = s[r][1] = set1(0.0f);
  const size_t bytes = static_cast<size_t>(kPage) * a.head_dim * (bf16 ? 2 : 4);
  const NextPage next(a, item, r0, bytes, bytes, a.head_dim);
  for (int d = 0; d < a.head_dim; ++d) {
    next.ask(d);
    const F32 k0 = kv_load<bf16>(a.keys, base + static_cast<size_t>(d) * kPage);
    const F32 k1 = kv_load<bf16>(a.keys, base + static_cast<size_t>(d) * kPage + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 q = set1(item.query[r0 + r][d]);
      s[r][0] = fma(q, k0, s[r][0]);
      s[r][1] = fma(q, k1, s[r][1]);
    }
  }
  const F32 scale = set1(a.scale * kLog2E), never = set1(kNever);
  for (int r = 0; r < R; ++r) {
    const int row = r0 + r, seen = item.limit[row] - first;
    if (seen <= 0) {  // this row ends before the page
      store(p + r * kPage, set1(0.0f));
      store(p + r * kPage + 16, set1(0.0f));
      continue;
    }
    F32 u = mul(s[r][0], scale), v = mul(s[r][1], scale);
    if (seen < kPage) {
      u = first_lanes(u, never, seen < 16 ? seen : 16);
      v = first_lanes(v, never, seen < 16 ? 0 : seen - 16);
    }
    const float old = item.top[row], page_top = reduce_max(max(u, v));
    const float top = page_top > old ? page_top : old;
    if (top != old) shrink_row(item, row, old, top);
    u = exp2(sub(u, set1(top)));
    v = exp2(sub(v, set1(top)));
    if (seen < kPage) {
      u = first_lanes(u, set1(0.0f), seen < 16 ? seen : 16);
      v = first_lanes(v, set1(0.0f), seen < 16 ? 0 : seen - 16);
    }
    store(item.sum[row], add(load(item.sum[row]), add(u, v)));
    store(p + r * kPage, u);
    store(p + r * kPage + 16, v);
  }
}

// acc [R][head_dim] += p [R][kPage] V [kPage][head_dim]
template <bool bf16, int R>
static void page_values(const Attention& a, size_t base, int tokens, const float* p, float* acc) {
  for (int d = 0; d < a.head_dim; d += 32) {
    const bool wide = d + 32 <= a.head_dim;
    F32 o[R][2];
    for (int r = 0; r < R; ++r) {
      o[r][0] = load(acc + static_cast<size_t>(r) * a.head_dim + d);
      o[r][1] = wide ? load(acc + static_cast<size_t>(r) * a.head_dim + d + 16) : set1(0.0f);
    }
    for (int t = 0; t < tokens; ++t) {
      const size_t at = base + static_cast<size_t>(t) * a.head_dim + d;
      const F32 v0 = kv_load<bf16>(a.values, at), v1 = wide ? kv_load<bf16>(a.values, at + 16) : v0;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F32 w = set1(p[r * kPage + t]);
        o[r][0] = fma(w, v0, o[r][0]);
        o[r][1] = fma(w, v1, o[r][1]);
      }
    }
    for (int r = 0; r < R; ++r) {
      store(acc + static_cast<size_t>(r) * a.head_dim + d, o[r][0]);
      if (wide) store(acc + static_cast<size_t>(r) * a.head_dim + d + 16, o[r][1]);
    }
  }
}

// The most tokens of the page from `first` on that any of R rows sees.
template <int R>
QWICK_INLINE int tokens_seen(const Item& item, int r0, int first) {
  int tokens = 0;
  for (int r = 0; r < R; ++r) {
    const int seen = item.limit[r0 + r] - first;
    tokens = seen > tokens ? seen : tokens;
  }
  return tokens < kPage ? tokens : kPage;
}

struct FloatPages {
  template <KV kv, int R>
  static void block(const Attention& a, size_t page, int r0, int first, Item& item) {
    constexpr bool bf16 = kv == KV::BF16;
    const int tokens = tokens_seen<R>(item, r0, first);
    if (tokens <= 0) return;
    const size_t base = page * a.head_dim * kPage;
    float p[R * kPage];
    page_scores<bf16, R>(a, base, item, r0, first, p);
    page_values<bf16, R>(a, base, tokens, p, item.acc + static_cast<size_t>(r0) * a.head_dim);
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
  template <KV, int R>
  static void block(const Attention& a, size_t page, int r0, int first, Item& item) {
    const int tokens = tokens_seen<R>(item, r0, first), groups = a.head_dim / kGroup;
    if (tokens <= 0) return;
    const uint8_t* keys = static_cast<const uint8_t*>(a.keys) + page * key_page_bytes(a.head_dim);
    const uint8_t* values = static_cast<const uint8_t*>(a.values) + page * value_page_bytes(a.head_dim);
    alignas(64) uint8_t p[R * kPage];
    alignas(64) float fade[16], weight[16];  // per row: of the sums so far, of this page
    const NextPage next(a, item, r0, key_page_bytes(a.head_dim), value_page_bytes(a.head_dim), 8 * groups);
    scores<R>(keys, reinterpret_cast<const float*>(values + kPage * a.head_dim), groups, item, r0, first, next, p, fade,
              weight);
    weigh<R>(values, a.head_dim, (tokens + 3) / 4, p, fade, weight, item.acc + static_cast<size_t>(r0) * a.head_dim);
  }

  // Scores of R rows, their softmax as bytes, and by how much the sums change.
  template <int R>
  static void scores(const uint8_t* keys, const float* value_scales, int groups, Item& item, int r0, int first,
                     const NextPage& next, uint8_t* p, float* fade, float* weight) {
    const float* key_scales = reinterpret_cast<const float*>(keys + groups * kGroup * kPage);
    const int8_t* q = item.quants + r0 * groups * kGroup;
    const float* scale = item.scale + r0 * groups;
    const int32_t* begin = item.start + r0 * groups;
    const float* first_key = key_scales + groups * kPage;
    F32 s[R][2];
    for (int r = 0; r < R; ++r) {
      F32 sum = set1(0.0f);
      for (int d = 0; d < groups * kGroup; d += 16) sum = fma(load(item.query[r0 + r] + d), load(first_key + d), sum);
      const F32 common = set1(reduce_add(sum) * item.query_scale);
      s[r][0] = add(load(value_scales), common);
      s[r][1] = add(load(value_scales + 16), common);
    }
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
        s[r][0] = fma(mul(to_float(t[r][0]), k0), set1(scale[r]), s[r][0]);
        s[r][1] = fma(mul(to_float(t[r][1]), k1), set1(scale[r]), s[r][1]);
      }
    }
    alignas(64) float page_top[16];
    store(page_top, set1(kNever));
    for (int r = 0; r < R; ++r) {
      const int seen = item.limit[r0 + r] - first;
      if (seen < kPage) {
        s[r][0] = first_lanes(s[r][0], set1(kNever), seen < 0 ? 0 : seen < 16 ? seen : 16);
        s[r][1] = first_lanes(s[r][1], set1(kNever), seen < 16 ? 0 : seen - 16);
      }
      page_top[r] = reduce_max(max(s[r][0], s[r][1]));
    }
    const F32 old = load_some(item.top + r0, R), here = load(page_top), top = max(here, old);
    const F32 keep = exp2(sub(old, top)), count = exp2(sub(here, top));
    store_some(item.top + r0, top, R);
    store(fade, keep);
    store(weight, count);
    const F32 inverse0 = load(value_scales + kPage), inverse1 = load(value_scales + kPage + 16);
    for (int r = 0; r < R; ++r) {
      const int seen = item.limit[r0 + r] - first;
      F32 u = exp2(sub(s[r][0], set1(page_top[r]))), v = exp2(sub(s[r][1], set1(page_top[r])));
      F32 sum_u = mul(u, inverse0), sum_v = mul(v, inverse1);
      if (seen < kPage) {  // what lies behind may be anything
        const int low = seen < 0 ? 0 : seen < 16 ? seen : 16, high = seen < 16 ? 0 : seen - 16;
        const F32 zero = set1(0.0f);
        u = first_lanes(u, zero, low), sum_u = first_lanes(sum_u, zero, low);
        v = first_lanes(v, zero, high), sum_v = first_lanes(sum_v, zero, high);
      }
      float* sum = item.sum[r0 + r];
      store(sum, fma(add(sum_u, sum_v), set1(weight[r]), mul(load(sum), set1(fade[r]))));
      store_u8(p + r * kPage, round_to_int(mul(u, set1(255.0f))));
      store_u8(p + r * kPage + 16, round_to_int(mul(v, set1(255.0f))));
      weight[r] *= 1.0f / 255.0f;
    }
  }

  // acc [R][head_dim] = acc * fade + weight * (p V)
  template <int R>
  static void weigh(const uint8_t* values, int head_dim, int steps, const uint8_t* p, const float* fade, const float* weight,
                    float* acc) {
    for (int d = 0; d < head_dim; d += 32, acc += 32) {
      I32 t[R][2];
      for (int r = 0; r < R; ++r) t[r][0] = t[r][1] = set1(0);
      for (int step = 0; step < steps; ++step) {
        const uint8_t* v = values + (static_cast<size_t>(step) * head_dim + d) * 4;
        const U8 v0 = load_bytes(v), v1 = load_bytes(v + 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          t[r][0] = dot_signed(t[r][0], v0, p + r * kPage + 4 * step);
          t[r][1] = dot_signed(t[r][1], v1, p + r * kPage + 4 * step);
        }
      }
      for (int r = 0; r < R; ++r) {
        float* o = acc + static_cast<size_t>(r) * head_dim;
        const F32 f = set1(fade[r]), w = set1(weight[r]);
        store(o, fma(to_float(t[r][0]), w, mul(load(o), f)));
        store(o + 16, fma(to_float(t[r][1]), w, mul(load(o + 16), f)));
      }
    }
  }
};

// ---- items -----------------------------------------------------------------------------------------------

// The last rows of an item, fewer than a block: as many as R at once.
template <class Pages, KV kv, int R>
static void rest(const Attention& a, size_t page, int r0, int first, Item& item) {
  if constexpr (R > 0) {
    if (item.rows - r0 == R) return Pages::template block<kv, R>(a, page, r0, first, item);
    rest<Pages, kv, R - 1>(a, page, r0, first, item);
  }
}

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
  constexpr int kRows = 8;
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
      int r = 0;
      for (; r + kRows <= rows; r += kRows) Pages::template block<kv, kRows>(a, page, r, first, item);
      rest<Pages, kv, kRows - 1>(a, page, r, first, item);
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
    case KV::F32: return attention_item<FloatPages, KV::F32>(a, work, item);
    case KV::BF16: return attention_item<FloatPages, KV::BF16>(a, work, item);
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
