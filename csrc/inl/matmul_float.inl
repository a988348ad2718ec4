// y = x W^T for weights kept as bf16, f16 or f32, in float32 arithmetic. Included inside an ISA's namespace.

template <Kind kind>
QWICK_INLINE F32 weights_at(const uint8_t* tile, int i) {  // the 16 rows' weights for k = i
  const size_t at = static_cast<size_t>(i) * kTile;
  if constexpr (kind == Kind::F32) return load(reinterpret_cast<const float*>(tile) + at);
  if constexpr (kind == Kind::BF16) return load_bf16(reinterpret_cast<const uint16_t*>(tile) + at);
  return load_f16(reinterpret_cast<const uint16_t*>(tile) + at);
}

// Every output is one chain of multiply-adds along k, whatever the number of rows: a row has the same bits alone and among
// others. A chain waits on its own latency, so several run side by side: the fewer rows, the more tiles at a time.

template <Kind kind, int M, int N>  // rows from r0 on, tiles from t on
static void float_block(const Segment& w, int t, const Rows& x, int r0, const Output& out) {
  const uint8_t* tile[N];
  for (int j = 0; j < N; ++j) tile[j] = w.tile(t + j);
  F32 sum[M][N];
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < N; ++j) sum[r][j] = set1(0.0f);
  const float* row = x.x + static_cast<size_t>(r0) * x.k;
#pragma GCC unroll 2
  for (int i = 0; i < w.k; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const F32 v = weights_at<kind>(tile[j], i);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
        sum[r][j] = fma(v, set1(row[static_cast<size_t>(r) * x.k + i]), sum[r][j]);
    }
  }
  for (int j = 0; j < N; ++j)
    for (int r = 0; r < M; ++r)
      put(out, r0 + r, w.first + (t + j) * kTile, w.n - (t + j) * kTile, sum[r][j]);
}

template <Kind kind, int N>
static void float_rows(const Segment& w, int t, const Rows& x, const Output& out) {
  constexpr int M = kFloatPanelRows;
  int r = 0;
  for (; r + M <= x.m; r += M) float_block<kind, M, N>(w, t, x, r, out);
  if constexpr (M > 4)
    for (; r + 4 <= x.m; r += 4) float_block<kind, 4, N>(w, t, x, r, out);
  for (; r + 2 <= x.m; r += 2) float_block<kind, 2, N>(w, t, x, r, out);
  if (r < x.m) float_block<kind, 1, N>(w, t, x, r, out);
}

template <Kind kind>
static void matmul_float(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  constexpr int many = 4, for_two = kFloatPanelRows >= 8 ? many : 2;  // tiles whose sums fit the registers
  int t = t0;
  if (x.m == 1)
    for (; t + many <= t1; t += many) float_block<kind, 1, many>(w, t, x, 0, out);
  if (x.m == 2)
    for (; t + for_two <= t1; t += for_two) float_block<kind, 2, for_two>(w, t, x, 0, out);
  for (; t + 2 <= t1; t += 2) float_rows<kind, 2>(w, t, x, out);
  if (t < t1) float_rows<kind, 1>(w, t, x, out);
}

static void matmul(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  switch (w.kind) {
    case Kind::BF16: return matmul_float<Kind::BF16>(w, t0, t1, x, out);
    case Kind::F16: return matmul_float<Kind::F16>(w, t0, t1, x, out);
    case Kind::F32: return matmul_float<Kind::F32>(w, t0, t1, x, out);
    default: return for_class(w.kind, [&](auto c) { matmul_int<c.kind>(w, t0, t1, x, out); });
  }
}
