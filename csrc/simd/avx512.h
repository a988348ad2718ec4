// 16 lanes of float or int and 64 bytes as AVX-512 registers; the functions of simd/portable.h. With QWICK_PAIRS the dot
// product of bf16 pairs is the one instruction of AVX-512 BF16.
// Included once per isa/*.cpp inside its namespace.

typedef __m512 F32;
typedef __m512i I32;
typedef __m512i U8;

#define QWICK_INLINE static inline __attribute__((always_inline))
#define QWICK_DECODE __attribute__((always_inline))

constexpr int kBlocksAtOnce = 2;  // of rows: 16 float sums and 8 operands stay in registers
constexpr int kRowsInStep = 4;  // whose dot products alternate
constexpr int kPageRows = 8;  // of attention, that share what is loaded of a page
constexpr int kFloatPanelRows = 8;
constexpr int kPeakSums = 12;  // independent dot products that hide its latency and fit the registers

QWICK_INLINE __mmask16 lanes(int n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

QWICK_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
QWICK_INLINE void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
QWICK_INLINE F32 set1(float v) { return _mm512_set1_ps(v); }
QWICK_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
QWICK_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
QWICK_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
QWICK_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
QWICK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
QWICK_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
QWICK_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
QWICK_INLINE F32 abs(F32 a) { return _mm512_abs_ps(a); }
QWICK_INLINE float reduce_add(F32 v) { return _mm512_reduce_add_ps(v); }
QWICK_INLINE float reduce_max(F32 v) { return _mm512_reduce_max_ps(v); }
QWICK_INLINE bool unordered(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }
QWICK_INLINE bool equal(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) == 0; }
QWICK_INLINE F32 first_lanes(F32 a, F32 b, int n) { return _mm512_mask_blend_ps(lanes(n), b, a); }
QWICK_INLINE F32 load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
QWICK_INLINE void store_some(float* p, F32 v, int n) { _mm512_mask_storeu_ps(p, lanes(n), v); }

QWICK_INLINE I32 set1(int32_t v) { return _mm512_set1_epi32(v); }
QWICK_INLINE I32 add(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
QWICK_INLINE F32 to_float(I32 v) { return _mm512_cvtepi32_ps(v); }
QWICK_INLINE I32 round_to_int(F32 v) { return _mm512_cvtps_epi32(v); }
QWICK_INLINE F32 whole(F32 v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// p 2^n, 0 where that is too small; n whole, at most 127
QWICK_INLINE F32 times_power(F32 p, F32 n) { return _mm512_scalef_ps(p, n); }
QWICK_INLINE int reduce_add(I32 v) { return _mm512_reduce_add_epi32(v); }
QWICK_INLINE void store_i8(int8_t* p, I32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(v));
}

QWICK_INLINE void store_u8(uint8_t* p, I32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(v));
}

QWICK_INLINE F32 load_bf16(const uint16_t* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
QWICK_INLINE void store_bf16(uint16_t* p, F32 v) {  // to nearest, ties to even; NaN stays NaN
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i out = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  out = _mm512_mask_or_epi32(out, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(out));
}

// What meets pairs of bf16: floats, or bf16 where one instruction multiplies pairs.
#ifdef QWICK_PAIRS
typedef uint16_t PairElement;
QWICK_INLINE void store_element(uint16_t* p, F32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
// acc[lane] += pairs[lane][0] * x[0] + pairs[lane][1] * x[1]
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const uint16_t* x) {
  int32_t two;
  memcpy(&two, x, 4);
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(pairs), reinterpret_cast<__m512bh>(_mm512_set1_epi32(two)));
}
#else
typedef float PairElement;
QWICK_INLINE void store_element(float* p, F32 v) { store(p, v); }
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const float* x) {
  const F32 first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  const F32 second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  return fma(second, set1(x[1]), fma(first, set1(x[0]), acc));
}
#endif
QWICK_INLINE U8 first_of_pairs(U8 pairs) { return _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)); }
QWICK_INLINE F32 load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QWICK_INLINE F32 load_u8(const uint8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
QWICK_INLINE F32 load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

QWICK_INLINE U8 load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
QWICK_INLINE void store_bytes(uint8_t* p, U8 v) { _mm512_storeu_si512(p, v); }
QWICK_INLINE U8 bits_xor(U8 a, U8 b) { return _mm512_xor_si512(a, b); }
QWICK_INLINE U8 low_nibbles(U8 v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
QWICK_INLINE U8 high_nibbles(U8 v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
template <int shift>
QWICK_INLINE U8 shifted(U8 v) {  // left when positive; bits that cross bytes are masked off by the callers
  if constexpr (shift > 0) return _mm512_slli_epi16(v, shift);
  if constexpr (shift < 0) return _mm512_srli_epi16(v, -shift);
  return v;
}
constexpr int kAndOr = 0xea;  // ternary logic of (a & b) | c
template <int t>
QWICK_INLINE U8 two_bits(U8 plane) {
  return _mm512_and_si512(shifted<-2 * t>(plane), _mm512_set1_epi8(3));
}
template <int t, int place>
QWICK_INLINE U8 with_bit(U8 low, U8 plane) {
  return _mm512_ternarylogic_epi32(shifted<place - t>(plane), _mm512_set1_epi8(1 << place), low, kAndOr);
}
template <int t>
QWICK_INLINE U8 with_bits(U8 low, U8 plane) {
  return _mm512_ternarylogic_epi32(shifted<4 - 2 * t>(plane), _mm512_set1_epi8(48), low, kAndOr);
}
QWICK_INLINE U8 table_values(U8 places, const uint8_t* table) {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), places);
}
constexpr bool kLikeSigns = false;  // only simd/neon.h
QWICK_INLINE U8 flipped(U8 v) { return v; }
template <bool wide>
QWICK_INLINE I32 dot(I32 acc, U8 w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
}
// acc[lane] += sum over b of v[4 lane + b] * p[b]; v signed, p four unsigned bytes.
QWICK_INLINE I32 dot_signed(I32 acc, U8 v, const uint8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(four), v);
}
// acc[i] += w * the four bytes at x + 4 i.
template <bool wide, int N>
QWICK_INLINE void dot_rows_of(I32 (&acc)[N], U8 w, const int8_t* x) {
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) acc[i] = dot<wide>(acc[i], w, x + 4 * i);
}
// Four steps: acc += op[t] * the four bytes at x + t * apart.
template <Kind kind>
QWICK_INLINE I32 dot4(I32 acc, const U8* op, const int8_t* x, int apart) {
  for (int t = 0; t < 4; ++t) acc = dot<true>(acc, op[t], x + t * apart);
  return acc;
}

// ---- eight rows at once -----------------------------------------------------------------------------------

constexpr bool kQuantizesBlocks = true;

// max(a), max(b) of pairs of lanes side by side: three levels of it leave the maxima of eight rows in one register.
QWICK_INLINE __m256 pair_max(__m256 a, __m256 b) {
  return _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
// The largest lane of each.
QWICK_INLINE __m256 tops_of(const F32 (&v)[8]) {
  __m256 top[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) top[r] = _mm256_max_ps(_mm512_castps512_ps256(v[r]), _mm512_extractf32x8_ps(v[r], 1));
  // After two levels: lanes 0..3 and 4..7 hold the maxima of four rows, of the lower and the upper four lanes.
  const __m256 low = pair_max(pair_max(top[0], top[1]), pair_max(top[2], top[3]));
  const __m256 high = pair_max(pair_max(top[4], top[5]), pair_max(top[6], top[7]));
  return _mm256_max_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
QWICK_INLINE F32 row_tops(const F32 (&v)[8]) { return _mm512_zextps256_ps512(tops_of(v)); }

// A group of eight rows, `k` floats apart, into the form that kernels.h states for a whole block. False, and nothing
// useful written, where something is not finite.
QWICK_INLINE bool quantize_block(const float* x, size_t k, uint8_t* to) {
  __m512 u[8], v[8], most[8];
  __mmask16 nan = 0;
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    u[r] = _mm512_loadu_ps(x + r * k);
    v[r] = _mm512_loadu_ps(x + r * k + 16);
    nan |= _mm512_cmp_ps_mask(u[r], v[r], _CMP_UNORD_Q);
    most[r] = _mm512_max_ps(_mm512_abs_ps(u[r]), _mm512_abs_ps(v[r]));
  }
  if (nan) return false;
  const __m256 amax = tops_of(most);
  const __m256 full = _mm256_set1_ps(127.0f);
  if (_mm256_cmp_ps_mask(amax, _mm256_set1_ps(__FLT_MAX__), _CMP_GT_OQ)) return false;
  const __mmask8 some = _mm256_cmp_ps_mask(amax, _mm256_set1_ps(kLeastRounded), _CMP_GE_OQ);
  alignas(32) float inverse[8];
  _mm256_store_ps(inverse, _mm256_maskz_div_ps(some, full, amax));

  __m256i q[8];  // row by row: eight steps of four quants
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    const __m512 by = _mm512_set1_ps(inverse[r]);
    const __m128i a = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(u[r], by)));
    const __m128i b = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v[r], by)));
    q[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
  }
  __m256i t[8], s[8];  // transposed, step by step: four quants of eight rows
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(q[2 * i], q[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(q[2 * i], q[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    s[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    s[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    s[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    s[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  const __m256i one = _mm256_set1_epi8(1);
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};  // of the first and the last 16 quants
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i first = _mm256_permute2x128_si256(s[i], s[i + 4], 0x20);
    const __m256i last = _mm256_permute2x128_si256(s[i], s[i + 4], 0x31);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32 * i), first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32 * (i + 4)), last);
    sum[0] = _mm256_dpbusd_epi32(sum[0], one, first);
    sum[1] = _mm256_dpbusd_epi32(sum[1], one, last);
  }
  const auto put = [&](int i, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 256 + 32 * i), value); };
  const auto times = [](__m256i value, int zero) { return _mm256_mullo_epi32(value, _mm256_set1_epi32(-zero)); };
  const __m256i all = _mm256_add_epi32(sum[0], sum[1]);
  put(0, _mm256_castps_si256(_mm256_div_ps(amax, full)));
  put(1, times(all, zero_point(Kind::I5)));
  put(2, times(all, zero_point(Kind::I8)));
  put(3, _mm256_castps_si256(_mm256_cvtepi32_ps(times(all, 1))));
  put(4, times(sum[0], zero_point(Kind::I6S)));
  put(5, times(sum[1], zero_point(Kind::I6S)));
  return true;
}
