// Attention over a page of floats, float32 or bf16 in pairs, in the three steps of attention.inl, which includes this.
// Pairs are of components where queries meet keys, of tokens where weights meet values. Where the CPU has a dot product
// of pairs, queries and weights are rounded to bf16 for it (simd/: PairElement).

struct WidePages {
  template <KV kv>
  static void page(const Attention& a, size_t page, int first, Item& item) {
    constexpr int kStep = kv == KV::BF16 ? 2 : 1;
    const size_t bytes = key_page_bytes(kv, a.head_dim);
    const uint8_t* keys = static_cast<const uint8_t*>(a.keys) + page * bytes;
    const uint8_t* values = static_cast<const uint8_t*>(a.values) + page * bytes;
    by_blocks<kPageRows>(item, first, [&](auto block, int r0, int) {
      const NextPage next(a, item, r0, bytes, bytes, a.head_dim / kStep);
      scores<kv, block.rows>(keys, a.head_dim, item, r0, next);
    });
    by_blocks<kRows>(item, first, [&](auto block, int r0, int) { softmax<kv, block.rows>(item, r0, first); });
    by_blocks<kPageRows>(item, first, [&](auto block, int r0, int tokens) {
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
