// Grouped causal attention over paged keys and values with an online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022). A row is one (query token, head of the group); rows share each page of keys while it is in
// the first cache. Included inside an ISA's namespace.

template <bool bf16>
QWICK_INLINE F32 kv_load(const void* p, size_t at) {
  if constexpr (bf16) return load_bf16(static_cast<const uint16_t*>(p) + at);
  return load(static_cast<const float*>(p) + at);
}

struct RowState {  // per row of an item, in scratch
  float top[kMaxQueryRows];   // largest score so far
  float sum[kMaxQueryRows];   // sum of e^(score - top)
  const float* query[kMaxQueryRows];
  int limit[kMaxQueryRows];   // tokens this row may see
};

// Scores of R rows against one page; softmaxed in place of `p` [R][kPage]; accumulators rescaled.
template <bool bf16, int R>
static void page_scores(const Attention& a, const void* keys, size_t base, RowState& state, int r0, int first,
                        float* p, float* acc) {
  F32 s[R][2];
  for (int r = 0; r < R; ++r) s[r][0] = s[r][1] = set1(0.0f);
  for (int d = 0; d < a.head_dim; ++d) {
    const F32 k0 = kv_load<bf16>(keys, base + static_cast<size_t>(d) * kPage);
    const F32 k1 = kv_load<bf16>(keys, base + static_cast<size_t>(d) * kPage + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 q = set1(state.query[r0 + r][d]);
      s[r][0] = fma(q, k0, s[r][0]);
      s[r][1] = fma(q, k1, s[r][1]);
    }
  }
  const F32 scale = set1(a.scale), never = set1(-3.0e38f);
  for (int r = 0; r < R; ++r) {
    const int seen = state.limit[r0 + r] - first;
    F32 u = mul(s[r][0], scale), v = mul(s[r][1], scale);
    if (seen < kPage) {
      u = first_lanes(u, never, seen < 0 ? 0 : seen < 16 ? seen : 16);
      v = first_lanes(v, never, seen < 16 ? 0 : seen - 16);
    }
    if (seen <= 0) {  // this row ends before the page
      store(p + r * kPage, set1(0.0f));
      store(p + r * kPage + 16, set1(0.0f));
      continue;
    }
    const float old = state.top[r0 + r], page_top = reduce_max(max(u, v));
    const float top = page_top > old ? page_top : old;
    if (top != old) {
      const F32 shrink = exp(set1(old - top));
      float* row = acc + static_cast<size_t>(r) * a.head_dim;
      for (int d = 0; d < a.head_dim; d += 16) store(row + d, mul(load(row + d), shrink));
      float factor[16];
      store(factor, shrink);
      state.sum[r0 + r] *= factor[0];
      state.top[r0 + r] = top;
    }
    u = exp(sub(u, set1(top)));
    v = exp(sub(v, set1(top)));
    if (seen < kPage) {
      u = first_lanes(u, set1(0.0f), seen < 16 ? seen : 16);
      v = first_lanes(v, set1(0.0f), seen < 16 ? 0 : seen - 16);
    }
    state.sum[r0 + r] += reduce_add(add(u, v));
    store(p + r * kPage, u);
    store(p + r * kPage + 16, v);
  }
}

// acc [R][head_dim] += p [R][kPage] V [kPage][head_dim]
template <bool bf16, int R>
static void page_values(const Attention& a, const void* values, size_t base, int tokens, const float* p,
                        float* acc) {
  for (int d = 0; d < a.head_dim; d += 32) {
    const bool wide = d + 32 <= a.head_dim;
    F32 o[R][2];
    for (int r = 0; r < R; ++r) {
      o[r][0] = load(acc + static_cast<size_t>(r) * a.head_dim + d);
      o[r][1] = wide ? load(acc + static_cast<size_t>(r) * a.head_dim + d + 16) : set1(0.0f);
    }
    for (int t = 0; t < tokens; ++t) {
      const size_t at = base + static_cast<size_t>(t) * a.head_dim + d;
      const F32 v0 = kv_load<bf16>(values, at), v1 = wide ? kv_load<bf16>(values, at + 16) : v0;
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

template <bool bf16, int R>
static void page_rows(const Attention& a, size_t base, RowState& state, int r0, int first, float* acc) {
  float p[R * kPage];
  int tokens = 0;  // the most that any of these rows sees of this page
  for (int r = 0; r < R; ++r) {
    const int seen = state.limit[r0 + r] - first;
    tokens = seen > tokens ? seen : tokens;
  }
  if (tokens <= 0) return;
  if (tokens > kPage) tokens = kPage;
  float* rows = acc + static_cast<size_t>(r0) * a.head_dim;
  page_scores<bf16, R>(a, a.keys, base, state, r0, first, p, rows);
  page_values<bf16, R>(a, a.values, base, tokens, p, rows);
}

template <bool bf16>
static void attention_item(const Attention& a, int s, int kv_head, int q0, int q1, float* acc) {
  const int group = a.heads / a.kv_heads, rows = (q1 - q0) * group, d = a.head_dim;
  RowState state;
  int most = 0;
  for (int r = 0; r < rows; ++r) {
    const int token = q0 + r / group, head = kv_head * group + r % group;
    state.query[r] = a.q + static_cast<size_t>(token) * a.q_stride + static_cast<size_t>(head) * d;
    state.limit[r] = a.positions[token] + 1;
    state.top[r] = -3.0e38f;
    state.sum[r] = 0;
    most = state.limit[r] > most ? state.limit[r] : most;
  }
  memset(acc, 0, sizeof(float) * rows * d);
  const int32_t* pages = a.pages + static_cast<size_t>(s) * a.pages_stride;
  for (int first = 0; first < most; first += kPage) {
    const size_t base = (static_cast<size_t>(pages[first / kPage]) * a.kv_heads + kv_head) * d * kPage;
    int r = 0;
    for (; r + 8 <= rows; r += 8) page_rows<bf16, 8>(a, base, state, r, first, acc);
    switch (rows - r) {
      case 7: page_rows<bf16, 7>(a, base, state, r, first, acc); break;
      case 6: page_rows<bf16, 6>(a, base, state, r, first, acc); break;
      case 5: page_rows<bf16, 5>(a, base, state, r, first, acc); break;
      case 4: page_rows<bf16, 4>(a, base, state, r, first, acc); break;
      case 3: page_rows<bf16, 3>(a, base, state, r, first, acc); break;
      case 2: page_rows<bf16, 2>(a, base, state, r, first, acc); break;
      case 1: page_rows<bf16, 1>(a, base, state, r, first, acc); break;
    }
  }
  for (int r = 0; r < rows; ++r) {
    const int token = q0 + r / group, head = kv_head * group + r % group;
    float* out = a.out + (static_cast<size_t>(token) * a.heads + head) * d;
    const F32 inverse = set1(1.0f / state.sum[r]);
    for (int i = 0; i < d; i += 16) store(out + i, mul(load(acc + static_cast<size_t>(r) * d + i), inverse));
  }
}

static void attention(const Attention& a, int s, int kv_head, int q0, int q1, float* scratch) {
  if (a.bf16) {
    attention_item<true>(a, s, kv_head, q0, q1, scratch);
  } else {
    attention_item<false>(a, s, kv_head, q0, q1, scratch);
  }
}
