// The five AMX instructions in use, or, with QWICK_EMULATE_AMX, the same in AVX-512 on tiles in memory: that
// build of isa/amx.cpp lets any AVX-512 machine test what it cannot run. Semantics: Intel SDM vol. 2, "TDPBF16PS".
// Included once per isa/*.cpp inside its namespace.

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

#ifdef QWICK_EMULATE_AMX

static thread_local TileConfig tile_config;
static thread_local uint8_t tile_data[8][16][64];

QWICK_INLINE void tiles_fence() {}
QWICK_INLINE void tiles_configure(const TileConfig& c) { memcpy(&tile_config, &c, sizeof c); }
QWICK_INLINE void tiles_release() { memset(&tile_config, 0, sizeof tile_config); }
QWICK_INLINE void tile_zero(int t) { memset(tile_data[t], 0, sizeof tile_data[t]); }
QWICK_INLINE void tile_load(int t, const void* p, size_t stride) {
  memset(tile_data[t], 0, sizeof tile_data[t]);
  for (int r = 0; r < tile_config.rows[t]; ++r)
    memcpy(tile_data[t][r], static_cast<const uint8_t*>(p) + r * stride, tile_config.row_bytes[t]);
}
QWICK_INLINE void tile_store(int t, void* p, size_t stride) {
  for (int r = 0; r < tile_config.rows[t]; ++r)
    memcpy(static_cast<uint8_t*>(p) + r * stride, tile_data[t][r], tile_config.row_bytes[t]);
}
QWICK_INLINE void tile_dot_bf16(int c, int a, int b) {
  for (int m = 0; m < tile_config.rows[c]; ++m) {
    F32 sum = load(reinterpret_cast<const float*>(tile_data[c][m]));
    for (int k = 0; k < tile_config.row_bytes[a] / 4; ++k) {
      uint32_t pair;
      memcpy(&pair, &tile_data[a][m][4 * k], 4);
      const __m512i w = _mm512_loadu_si512(tile_data[b][k]);
      const F32 even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
      const F32 odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(0xffff0000)));
      sum = fma(_mm512_castsi512_ps(_mm512_set1_epi32(pair << 16)), even, sum);
      sum = fma(_mm512_castsi512_ps(_mm512_set1_epi32(pair & 0xffff0000)), odd, sum);
    }
    store(reinterpret_cast<float*>(tile_data[c][m]), sum);
  }
}

#else

// GCC 12's tile intrinsics do not say that they read memory: stores must be done before they run.
QWICK_INLINE void tiles_fence() { __asm__ volatile("" ::: "memory"); }
QWICK_INLINE void tiles_configure(const TileConfig& c) {
  tiles_fence();
  _tile_loadconfig(&c);
}
QWICK_INLINE void tiles_release() { _tile_release(); }
// Macros, because the compiler's intrinsics write the tile's number into assembly text.
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, p, stride) _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
#define tile_dot_bf16(c, a, b) _tile_dpbf16ps(c, a, b)

#endif
