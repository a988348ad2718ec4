// 16 lanes of float or int and 64 bytes as pairs of AVX2 registers; the functions of simd/portable.h. With QWICK_AVXVNNI
// the 8-bit dot product is the one instruction of AVX-VNNI or, emulated, its twin of AVX-512. Included once per isa/*.cpp
// inside its namespace.

struct F32 {
  __m256 a, b;
};
struct I32 {
  __m256i a, b;
};
struct U8 {
  __m256i a, b;
};

#define QWICK_INLINE static inline __attribute__((always_inline))
#define QWICK_DECODE __attribute__((always_inline))

constexpr int kBlocksAtOnce = 1;  // of rows that share what decoding weights costs
constexpr int kRowsInStep = 1;  // whose dot products alternate
constexpr int kPageRows = 8;  // of attention, that share what is loaded of a page
constexpr int kFloatPanelRows = 3;
constexpr int kPeakSums = 4;  // independent dot products that hide its latency and fit the registers

QWICK_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
QWICK_INLINE void store(float* p, F32 v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
QWICK_INLINE F32 set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
QWICK_INLINE F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
QWICK_INLINE F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
QWICK_INLINE F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
QWICK_INLINE F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
QWICK_INLINE F32 fma(F32 x, F32 y, F32 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
QWICK_INLINE F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
QWICK_INLINE F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
QWICK_INLINE F32 abs(F32 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
QWICK_INLINE float reduce_add(F32 v) {
  const __m256 s = _mm256_add_ps(v.a, v.b);
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
QWICK_INLINE float reduce_max(F32 v) {
  const __m256 s = _mm256_max_ps(v.a, v.b);
  __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
QWICK_INLINE __m256i lanes(int n) {  // all bits set in lanes 0..n-1 of eight
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
QWICK_INLINE bool unordered(F32 x, F32 y) {
  const __m256 a = _mm256_cmp_ps(x.a, y.a, _CMP_UNORD_Q), b = _mm256_cmp_ps(x.b, y.b, _CMP_UNORD_Q);
  return _mm256_movemask_ps(_mm256_or_ps(a, b)) != 0;
}
QWICK_INLINE bool equal(F32 x, F32 y) {
  const __m256 a = _mm256_cmp_ps(x.a, y.a, _CMP_NEQ_UQ), b = _mm256_cmp_ps(x.b, y.b, _CMP_NEQ_UQ);
  return _mm256_movemask_ps(_mm256_or_ps(a, b)) == 0;
}
QWICK_INLINE F32 first_lanes(F32 x, F32 y, int n) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(lanes(n))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(lanes(n - 8)))};
}
QWICK_INLINE F32 load_some(const float* p, int n) {
  return {_mm256_maskload_ps(p, lanes(n)), _mm256_maskload_ps(p + 8, lanes(n - 8))};
}
QWICK_INLINE void store_some(float* p, F32 v, int n) {
  _mm256_maskstore_ps(p, lanes(n), v.a);
  _mm256_maskstore_ps(p + 8, lanes(n - 8), v.b);
}

QWICK_INLINE I32 set1(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
QWICK_INLINE I32 add(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
QWICK_INLINE F32 to_float(I32 v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
QWICK_INLINE I32 round_to_int(F32 v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
QWICK_INLINE F32 whole(F32 v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(v.a, kNearest), _mm256_round_ps(v.b, kNearest)};
}
QWICK_INLINE __m256 power(__m256 n) {  // 2^n, n from -126 on
  const __m256i exponent = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_set1_ps(-126.0f), n));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
}
// p 2^n, next to 0 where that is too small; n whole, at most 127
QWICK_INLINE F32 times_power(F32 p, F32 n) { return {_mm256_mul_ps(p.a, power(n.a)), _mm256_mul_ps(p.b, power(n.b))}; }
QWICK_INLINE int reduce_add(I32 v) {
  const __m256i s = _mm256_add_epi32(v.a, v.b);
  __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
QWICK_INLINE __m128i low_halves(I32 v, bool second) {  // eight 32-bit lanes to 16 bits, unsigned saturation
  const __m256i x = second ? v.b : v.a;
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
QWICK_INLINE void store_i8(int8_t* p, I32 v) {
  const __m128i a = _mm_packs_epi32(_mm256_castsi256_si128(v.a), _mm256_extracti128_si256(v.a, 1));
  const __m128i b = _mm_packs_epi32(_mm256_castsi256_si128(v.b), _mm256_extracti128_si256(v.b, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(a, b));
}

QWICK_INLINE void store_u8(uint8_t* p, I32 v) {
  const __m128i a = low_halves(v, false), b = low_halves(v, true);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(a, b));
}

QWICK_INLINE F32 load_bf16(const uint16_t* p) {
  const __m128i *h = reinterpret_cast<const __m128i*>(p), *l = reinterpret_cast<const __m128i*>(p + 8);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(h)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(l)), 16))};
}
QWICK_INLINE __m256i bf16_bits(__m256 v) {  // to nearest, ties to even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}
QWICK_INLINE void store_bf16(uint16_t* p, F32 v) {
  const I32 bits = {bf16_bits(v.a), bf16_bits(v.b)};
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low_halves(bits, false));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), low_halves(bits, true));
}
typedef float PairElement;  // what meets pairs of bf16
QWICK_INLINE void store_element(float* p, F32 v) { store(p, v); }
QWICK_INLINE __m256 dot_half(__m256 acc, __m256i pairs, const float* x) {
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  return _mm256_fmadd_ps(second, _mm256_set1_ps(x[1]), _mm256_fmadd_ps(first, _mm256_set1_ps(x[0]), acc));
}
// acc[lane] += pairs[lane][0] * x[0] + pairs[lane][1] * x[1]
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const float* x) {
  return {dot_half(acc.a, pairs.a, x), dot_half(acc.b, pairs.b, x)};
}
QWICK_INLINE U8 first_of_pairs(U8 pairs) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  return {_mm256_and_si256(pairs.a, low), _mm256_and_si256(pairs.b, low)};
}
QWICK_INLINE F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
QWICK_INLINE F32 load_u8(const uint8_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)))};
}
QWICK_INLINE F32 load_i8(const int8_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))};
}

QWICK_INLINE U8 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
QWICK_INLINE void store_bytes(uint8_t* p, U8 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
}
QWICK_INLINE U8 bits_xor(U8 x, U8 y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
QWICK_INLINE U8 low_nibbles(U8 v) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
}
QWICK_INLINE U8 high_nibbles(U8 v) { return low_nibbles({_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)}); }
template <int shift, int mask>
QWICK_INLINE __m256i shifted_and(__m256i v) {  // left when positive; bits that cross bytes are masked off
  if constexpr (shift > 0) v = _mm256_slli_epi16(v, shift);
  if constexpr (shift < 0) v = _mm256_srli_epi16(v, -shift);
  return _mm256_and_si256(v, _mm256_set1_epi8(mask));
}
template <int t>
QWICK_INLINE U8 two_bits(U8 plane) {
  return {shifted_and<-2 * t, 3>(plane.a), shifted_and<-2 * t, 3>(plane.b)};
}
template <int t, int place>
QWICK_INLINE U8 with_bit(U8 low, U8 plane) {
  return {_mm256_or_si256(low.a, shifted_and<place - t, 1 << place>(plane.a)),
          _mm256_or_si256(low.b, shifted_and<place - t, 1 << place>(plane.b))};
}
template <int t>
QWICK_INLINE U8 with_bits(U8 low, U8 plane) {
  return {_mm256_or_si256(low.a, shifted_and<4 - 2 * t, 48>(plane.a)),
          _mm256_or_si256(low.b, shifted_and<4 - 2 * t, 48>(plane.b))};
}
QWICK_INLINE U8 table_values(U8 places, const uint8_t* table) {
  const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(values, places.a), _mm256_shuffle_epi8(values, places.b)};
}

constexpr bool kLikeSigns = false;  // only simd/neon.h
QWICK_INLINE U8 flipped(U8 v) { return v; }
#if defined(QWICK_EMULATE_AVXVNNI)
QWICK_INLINE __m256i dot_bytes(__m256i acc, __m256i w, __m256i x) { return _mm256_dpbusd_epi32(acc, w, x); }
#elif defined(QWICK_AVXVNNI)
QWICK_INLINE __m256i dot_bytes(__m256i acc, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(acc, w, x); }
#endif
// One register of `dot`. Without VNNI, pairs of products are summed in 16 bits: exact for quants up to 129; wider ones
// are multiplied as 16-bit numbers, even bytes and odd bytes apart.
template <bool wide>
QWICK_INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i x) {
#ifdef QWICK_AVXVNNI
  return dot_bytes(acc, w, x);
#else
  if constexpr (wide) {
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w, 8);
    const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(even, x_even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(odd, x_odd));
  } else {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
  }
#endif
}
QWICK_INLINE __m256i four_bytes(const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
template <bool wide>
QWICK_INLINE I32 dot(I32 acc, U8 w, const int8_t* x) {
  const __m256i four = four_bytes(x);
  return {dot_half<wide>(acc.a, w.a, four), dot_half<wide>(acc.b, w.b, four)};
}

// acc[lane] += sum over b of v[4 lane + b] * p[b]; v signed, p four unsigned bytes.
QWICK_INLINE __m256i dot_signed_half(__m256i acc, __m256i v, __m256i p) {
#ifdef QWICK_AVXVNNI
  return dot_bytes(acc, p, v);
#else
  const __m256i v_even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), v_odd = _mm256_srai_epi16(v, 8);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(p, _mm256_set1_epi16(255)), v_even));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16(p, 8), v_odd));
#endif
}
QWICK_INLINE I32 dot_signed(I32 acc, U8 v, const uint8_t* p) {
  const __m256i four = four_bytes(reinterpret_cast<const int8_t*>(p));
  return {dot_signed_half(acc.a, v.a, four), dot_signed_half(acc.b, v.b, four)};
}

// acc[i] += w * the four bytes at x + 4 i.
template <bool wide, int N>
QWICK_INLINE void dot_rows_of(I32 (&acc)[N], U8 w, const int8_t* x) {
  for (int i = 0; i < N; ++i) acc[i] = dot<wide>(acc[i], w, x + 4 * i);
}
// One register of four steps. Without VNNI: as many as fit 16 bits are summed there, which saves the widening.
template <Kind kind>
QWICK_INLINE __m256i dot4_half(__m256i acc, __m256i w0, __m256i w1, __m256i w2, __m256i w3, __m256i x0, __m256i x1,
                               __m256i x2, __m256i x3) {
#ifndef QWICK_AVXVNNI
  if constexpr (largest_quant(kind) < 64) {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w0, x0), _mm256_maddubs_epi16(w1, x1));
    __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w2, x2), _mm256_maddubs_epi16(w3, x3));
    if constexpr (8 * 127 * largest_quant(kind) < 32768) {  // eight products fit
      return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(a, b), one));
    } else {
      return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)));
    }
  }
#endif
  constexpr bool wide = largest_quant(kind) > 129;
  return dot_half<wide>(dot_half<wide>(dot_half<wide>(dot_half<wide>(acc, w0, x0), w1, x1), w2, x2), w3, x3);
}
// Four steps: acc += op[t] * the four bytes at x + t * apart.
template <Kind kind>
QWICK_INLINE I32 dot4(I32 acc, const U8* op, const int8_t* x, int apart) {
  const __m256i x0 = four_bytes(x), x1 = four_bytes(x + apart), x2 = four_bytes(x + 2 * apart),
                x3 = four_bytes(x + 3 * apart);
  return {dot4_half<kind>(acc.a, op[0].a, op[1].a, op[2].a, op[3].a, x0, x1, x2, x3),
          dot4_half<kind>(acc.b, op[0].b, op[1].b, op[2].b, op[3].b, x0, x1, x2, x3)};
}

// The largest lane of each of eight, in the first eight lanes.
QWICK_INLINE F32 row_tops(const F32 (&v)[8]) {
  float top[16] = {};
  for (int r = 0; r < 8; ++r) top[r] = reduce_max(v[r]);
  return load(top);
}

constexpr bool kQuantizesBlocks = false;  // eight rows at once: only simd/avx512.h
QWICK_INLINE bool quantize_block(const float*, size_t, uint8_t*) { return false; }
