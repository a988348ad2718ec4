// y = x W^T for many rows on the matrix unit: weights decoded to bf16 panels, x rounded to bf16, float32 sums.
// bf16 and not 8-bit, because a scale per 32 k would use half of an 8-bit tile. Included inside an ISA's
// namespace, after matmul_int.inl.
//
// Panel of one tile of 16 outputs: [k / 2][16 outputs][2] bf16, the B operand; k padded with zeros to 32.

static size_t tile_panel_bytes(int, int k) {
  const size_t k_even = (k + 31) / 32 * 32;
  return 2 * k_even * kTile * sizeof(uint16_t) + 2 * 16 * 16 * 2 * sizeof(float);
}

// Sixteen outputs' values for k and k + 1, rounded and interleaved.
QWICK_INLINE void put_pair(uint16_t* to, F32 even, F32 odd) {
  uint16_t a[16], b[16];
  store_bf16(a, even);
  store_bf16(b, odd);
  const __m512i lo = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i hi = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  _mm512_storeu_si512(to, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
}

// A step of a group: w = scale * (q - zero point) - offset.
template <Kind kind>
QWICK_INLINE void put_step(uint16_t* to, U8 q, F32 scale, F32 offset) {
  const __m512i byte = _mm512_set1_epi32(255);  // a lane of q: bytes k, k + 1, k + 2, k + 3 of one output
  F32 v[4];
  const I32 zero = set1(-zero_point(kind));
  v[0] = to_float(add(_mm512_and_si512(q, byte), zero));
  v[1] = to_float(add(_mm512_and_si512(_mm512_srli_epi32(q, 8), byte), zero));
  v[2] = to_float(add(_mm512_and_si512(_mm512_srli_epi32(q, 16), byte), zero));
  v[3] = to_float(add(_mm512_srli_epi32(q, 24), zero));
  for (int i = 0; i < 4; ++i) v[i] = has_minimum(kind) ? sub(mul(v[i], scale), offset) : mul(v[i], scale);
  put_pair(to, v[0], v[1]);
  put_pair(to + 32, v[2], v[3]);
}

template <Kind kind>
static void bf16_panel(const Segment& w, int t, uint16_t* panel) {
  const uint8_t* tile = w.tile(t);
  if constexpr (is_integer(kind)) {
    const Operands<kind> operands(w, t);
    for (int g = 0; g < w.k / kGroup; ++g) {
      const Group<kind> group = operands.group(g);
      for (int i = 0; i < 8; ++i, panel += 64) {
        const int h = i / (8 / halves(kind));
        put_step<kind>(panel, group.op[i], group.s.scale[h], group.s.offset[h]);
      }
    }
  } else {
    const int k_even = (w.k + 31) / 32 * 32;
    for (int i = 0; i < k_even; i += 2, panel += 32)
      put_pair(panel, i < w.k ? weights_at<kind>(tile, i) : set1(0.0f),
               i + 1 < w.k ? weights_at<kind>(tile, i + 1) : set1(0.0f));
  }
}

static TileConfig tile_shape(int rows_low, int rows_high) {
  TileConfig c = {};
  c.palette = 1;
  for (int t = 0; t < 8; ++t) c.row_bytes[t] = 64, c.rows[t] = 16;
  // 0, 1: sums of rows 0..15; 2, 3: of rows 16..31; 4, 5: x; 6, 7: weights
  c.rows[0] = c.rows[1] = c.rows[4] = static_cast<uint8_t>(rows_low);
  if (rows_high) c.rows[2] = c.rows[3] = c.rows[5] = static_cast<uint8_t>(rows_high);
  return c;
}

template <bool high>
static void tile_block(const uint16_t* x, int k_even, const uint16_t* panel, float* sums) {
  tiles_fence();
  tile_zero(0);
  tile_zero(1);
  if (high) {
    tile_zero(2);
    tile_zero(3);
  }
  const size_t stride = static_cast<size_t>(k_even) * 2;
  const uint16_t* second = panel + static_cast<size_t>(k_even) * kTile;
  for (int k = 0; k < k_even; k += 32) {
    tile_load(4, x + k, stride);
    tile_load(6, panel + k * kTile, 64);
    tile_load(7, second + k * kTile, 64);
    tile_dot_bf16(0, 4, 6);
    tile_dot_bf16(1, 4, 7);
    if (high) {
      tile_load(5, x + k + 16 * static_cast<size_t>(k_even), stride);
      tile_dot_bf16(2, 5, 6);
      tile_dot_bf16(3, 5, 7);
    }
  }
  tile_store(0, sums, 128);
  tile_store(1, sums + 16, 128);
  if (high) {
    tile_store(2, sums + 512, 128);
    tile_store(3, sums + 528, 128);
  }
}

template <Kind kind>
static void panel_tiles(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch) {
  float* sums = static_cast<float*>(scratch);  // [32][32]
  uint16_t* panel = reinterpret_cast<uint16_t*>(sums + 1024);
  for (int t = t0; t < t1; t += 2) {
    const int tiles = t1 - t < 2 ? 1 : 2;
    bf16_panel<kind>(w, t, panel);
    bf16_panel<kind>(w, tiles > 1 ? t + 1 : t, panel + static_cast<size_t>(x.k_even) * kTile);
    int shape = -1;
    for (int r = 0; r < x.m; r += 32) {
      const int rows = x.m - r < 32 ? x.m - r : 32;
      if (rows != shape) {
        tiles_configure(rows > 16 ? tile_shape(16, rows - 16) : tile_shape(rows, 0));
        shape = rows;
      }
      const uint16_t* at = x.bf16 + static_cast<size_t>(r) * x.k_even;
      if (rows > 16) {
        tile_block<true>(at, x.k_even, panel, sums);
      } else {
        tile_block<false>(at, x.k_even, panel, sums);
      }
      for (int j = 0; j < tiles; ++j) {
        const int column = (t + j) * kTile;
        for (int i = 0; i < rows; ++i)
          put(out, r + i, w.first + column, w.n - column, load(sums + i * 32 + j * 16));
      }
    }
    tiles_release();
  }
}

static void matmul_many(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch) {
  if (is_integer(w.kind)) return for_class(w.kind, [&](auto c) { panel_tiles<c.kind>(w, t0, t1, x, out, scratch); });
  if (w.kind == Kind::BF16) return panel_tiles<Kind::BF16>(w, t0, t1, x, out, scratch);
  matmul(w, t0, t1, x, out);  // f16 and f32 keep their precision
}

// The matrix unit at its best: tiles that stay in registers. Returns operations.
static double busy_tiles(int64_t rounds) {
  alignas(64) uint16_t a[32 * 32], b[32 * 32];
  alignas(64) float sums[1024];
  for (int i = 0; i < 1024; ++i) {  // bf16 values between 0.5 and 2: zeros would run faster than real data
    a[i] = static_cast<uint16_t>(0x3f00 + i * 37 % 256);
    b[i] = static_cast<uint16_t>(0xbf00 + i * 91 % 256);
  }
  tiles_configure(tile_shape(16, 16));
  tiles_fence();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  tile_load(4, a, 64);
  tile_load(5, a + 512, 64);
  tile_load(6, b, 64);
  tile_load(7, b + 512, 64);
  for (int64_t n = 0; n < rounds; ++n) {
    tile_dot_bf16(0, 4, 6);
    tile_dot_bf16(1, 4, 7);
    tile_dot_bf16(2, 5, 6);
    tile_dot_bf16(3, 5, 7);
  }
  tile_store(0, sums, 64);
  tiles_release();
  volatile float sink = sums[0];
  (void)sink;
  return static_cast<double>(rounds) * 4 * 16 * 16 * 32 * 2;
}
