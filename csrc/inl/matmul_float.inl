// y = x W^T for weights kept as bf16, f16 or f32, in float32 arithmetic. Included inside an ISA's namespace.

template <Kind kind>
QWICK_INLINE F32 weights_at(const uint8_t* tile, int i) {  // the 16 rows' weights for k = i
  const size_t at = static_cast<size_t>(i) * kTile;
  if constexpr (kind == Kind::F32) return load(reinterpret_cast<const float*>(tile) + at);
  if constexpr (kind == Kind::BF16) return load_bf16(reinterpret_cast<const uint16_t*>(tile) + at);
  return load_f16(reinterpret_cast<const uint16_t*>(tile) + at);
}

// Every output is one chain of multiply-adds along k, whatever the number of rows: a row has the same bits alone and among
// others. A chain waits on its own latency, so several run side by side: few rows meet several tiles at a time.

template <Kind kind, int M>
static void float_rows(const Segment& w, int t0, int tiles, const Rows& x, int r0, const Output& out) {
  const uint8_t *tile0 = w.tile(t0), *tile1 = w.tile(tiles > 1 ? t0 + 1 : t0);
  F32 sum[M][2];
  for (int r = 0; r < M; ++r) sum[r][0] = sum[r][1] = set1(0.0f);
  const float* row = x.x + static_cast<size_t>(r0) * x.k;
  for (int i = 0; i < w.k; ++i) {
    const F32 w0 = weights_at<kind>(tile0, i), w1 = weights_at<kind>(tile1, i);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const F32 v = set1(row[static_cast<size_t>(r) * x.k + i]);
      sum[r][0] = fma(w0, v, sum[r][0]);
      sum[r][1] = fma(w1, v, sum[r][1]);
    }
  }
  for (int j = 0; j < tiles; ++j)
    for (int r = 0; r < M; ++r)
      put(out, r0 + r, w.first + (t0 + j) * kTile, w.n - (t0 + j) * kTile, sum[r][j]);
}

template <Kind kind>
static void matmul_float(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  constexpr int M = kFloatPanelRows;
  for (int t = t0; t < t1; t += 2) {
    const int tiles = t1 - t < 2 ? 1 : 2;
    int r = 0;
    for (; r + M <= x.m; r += M) float_rows<kind, M>(w, t, tiles, x, r, out);
    for (; r + 2 <= x.m; r += 2) float_rows<kind, 2>(w, t, tiles, x, r, out);
    if (r < x.m) float_rows<kind, 1>(w, t, tiles, x, r, out);
  }
}

static void matmul(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  switch (w.kind) {
    case Kind::BF16: return matmul_float<Kind::BF16>(w, t0, t1, x, out);
    case Kind::F16: return matmul_float<Kind::F16>(w, t0, t1, x, out);
    case Kind::F32: return matmul_float<Kind::F32>(w, t0, t1, x, out);
    default: return for_class(w.kind, [&](auto c) { matmul_int<c.kind>(w, t0, t1, x, out); });
  }
}
