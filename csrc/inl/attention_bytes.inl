// Attention over a page of 8-bit numbers, in the three steps of attention.inl, which includes this.
//
// Both products are integer dot products, exact but for the roundings that the page layout (kernels.h) and
// two more bring: queries to 8 bits per 32 components, weights to 0..255 per page. A value's scale goes into its token's
// weight: with scores in base 2, s' = s + log2(scale); e = 2^(s' - max s') weighs the quants, and e / scale counts in the
// sum of weights.

// Queries of R rows in 8 bits.
static void quantize_queries(Item& item, int r0, int R) {
  const int groups = item.head_dim / kGroup;
  int8_t* quants = item.quants + r0 * item.head_dim;
  for (int r = 0; r < R; ++r) {
    const float* x = item.query[r0 + r];
    for (int g = 0; g < groups; ++g, x += kGroup) {
      const F32 u = load(x), v = load(x + 16);
      const float amax = largest(u, v);
      const F32 inverse = inverse_scale(amax);
      const I32 i = rounded(u, inverse, amax), j = rounded(v, inverse, amax);
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
    by_blocks<kPageRows>(item, first, [&](auto block, int r0, int) {
      const NextPage next(a, item, r0, key_page_bytes(KV::I8, a.head_dim), value_page_bytes(KV::I8, a.head_dim), a.head_dim / 4);
      scores<block.rows>(keys, value_scales, a.head_dim / kGroup, item, r0, next);
    });
    by_blocks<kRows>(item, first, [&](auto block, int r0, int) { softmax<block.rows>(value_scales + kPage, item, r0, first); });
    by_blocks<kPageRows>(item, first, [&](auto block, int r0, int tokens) {
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
      for (int r = 0; r < R; ++r) t[r][0] = t[r][1] = set1(kLikeSigns ? 0 : begin[r]);
#pragma GCC unroll 8
      for (int step = 0; step < 8; ++step, keys += 4 * kPage, q += 4 * R) {
        next.ask(8 * g + step);
        const U8 k0 = flipped(load_bytes(keys)), k1 = flipped(load_bytes(keys + 64));
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
    int start[R] = {};
    if constexpr (kLikeSigns)
      for (int r = 0; r < R; ++r)
        for (int token = 0; token < kPage; ++token) start[r] -= 128 * item.shares[r0 + r][token];
    for (int d = 0; d < head_dim; d += 32, acc += 32) {
      I32 t[R][2];
      for (int r = 0; r < R; ++r) t[r][0] = t[r][1] = set1(start[r]);
      for (int step = 0; step < steps; ++step) {
        const uint8_t* v = values + (static_cast<size_t>(step) * head_dim + d) * 4;
        const U8 v0 = flipped(load_bytes(v)), v1 = flipped(load_bytes(v + 64));
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
