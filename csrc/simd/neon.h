// 16 lanes of float or int and 64 bytes as four NEON registers; the functions of simd/portable.h. Compiled three times:
// plain (any 64-bit ARM), with QWICK_DOTPROD (8-bit dot products of like signs), and with QWICK_I8MM too (of unlike
// signs, and of bf16 pairs). Included once per isa/*.cpp inside its namespace.
//
// The 8-bit matrix products of I8MM are left alone: they take eight k of two rows at a time, where a tile's step holds
// four (docs/decisions/0011).

struct F32 {
  float32x4_t a, b, c, d;
};
struct I32 {
  int32x4_t a, b, c, d;
};
struct U8 {
  uint8x16_t a, b, c, d;
};

#define QWICK_INLINE static inline __attribute__((always_inline))
#define QWICK_DECODE __attribute__((always_inline))

constexpr int kBlocksAtOnce = 1;  // of rows that share what decoding weights costs
#ifdef QWICK_DOTPROD
constexpr int kRowsInStep = 4;  // whose dot products alternate: 16 registers of sums, 4 of weights, 1 of four rows of x
#else
constexpr int kRowsInStep = 1;
#endif
constexpr int kPageRows = 2;  // of attention, that share what is loaded of a page: 16 registers of sums
constexpr int kFloatPanelRows = 2;
constexpr int kPeakSums = 4;  // independent dot products that hide its latency and fit the registers

QWICK_INLINE F32 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
QWICK_INLINE void store(float* p, F32 v) {
  vst1q_f32(p, v.a);
  vst1q_f32(p + 4, v.b);
  vst1q_f32(p + 8, v.c);
  vst1q_f32(p + 12, v.d);
}
QWICK_INLINE F32 four(float32x4_t v) { return {v, v, v, v}; }
QWICK_INLINE F32 set1(float v) { return four(vdupq_n_f32(v)); }
QWICK_INLINE F32 add(F32 x, F32 y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
QWICK_INLINE F32 sub(F32 x, F32 y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
QWICK_INLINE F32 mul(F32 x, F32 y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
QWICK_INLINE F32 div(F32 x, F32 y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
QWICK_INLINE F32 fma(F32 x, F32 y, F32 z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
// NaN where either is.
QWICK_INLINE F32 max(F32 x, F32 y) {
  return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
}
QWICK_INLINE F32 min(F32 x, F32 y) {
  return {vminq_f32(x.a, y.a), vminq_f32(x.b, y.b), vminq_f32(x.c, y.c), vminq_f32(x.d, y.d)};
}
QWICK_INLINE F32 abs(F32 x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
QWICK_INLINE float reduce_add(F32 v) { return vaddvq_f32(vaddq_f32(vaddq_f32(v.a, v.b), vaddq_f32(v.c, v.d))); }
QWICK_INLINE float32x4_t top_of(F32 v) { return vmaxq_f32(vmaxq_f32(v.a, v.b), vmaxq_f32(v.c, v.d)); }
QWICK_INLINE float reduce_max(F32 v) { return vmaxvq_f32(top_of(v)); }
QWICK_INLINE uint32x4_t same(F32 x, F32 y) {  // all bits set in a lane that is the same in all four registers
  const uint32x4_t low = vandq_u32(vceqq_f32(x.a, y.a), vceqq_f32(x.b, y.b));
  return vandq_u32(low, vandq_u32(vceqq_f32(x.c, y.c), vceqq_f32(x.d, y.d)));
}
QWICK_INLINE bool equal(F32 x, F32 y) { return vminvq_u32(same(x, y)) != 0; }
QWICK_INLINE bool unordered(F32 x, F32 y) { return vminvq_u32(vandq_u32(same(x, x), same(y, y))) == 0; }
QWICK_INLINE float32x4_t first_of(float32x4_t x, float32x4_t y, int n) {  // lanes 0..n-1 of x, the others of y
  constexpr int32_t kLanes[4] = {0, 1, 2, 3};
  return vbslq_f32(vcltq_s32(vld1q_s32(kLanes), vdupq_n_s32(n)), x, y);
}
QWICK_INLINE F32 first_lanes(F32 x, F32 y, int n) {
  return {first_of(x.a, y.a, n), first_of(x.b, y.b, n - 4), first_of(x.c, y.c, n - 8), first_of(x.d, y.d, n - 12)};
}
QWICK_INLINE float32x4_t load_four(const float* p, int n) {  // nothing from p[n] on is touched
  if (n >= 4) return vld1q_f32(p);
  float32x4_t v = vdupq_n_f32(0.0f);
  if (n > 0) v = vld1q_lane_f32(p, v, 0);
  if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
  if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
  return v;
}
QWICK_INLINE void store_four(float* p, float32x4_t v, int n) {
  if (n >= 4) return vst1q_f32(p, v);
  if (n > 0) vst1q_lane_f32(p, v, 0);
  if (n > 1) vst1q_lane_f32(p + 1, v, 1);
  if (n > 2) vst1q_lane_f32(p + 2, v, 2);
}
QWICK_INLINE F32 load_some(const float* p, int n) {
  return {load_four(p, n), load_four(p + 4, n - 4), load_four(p + 8, n - 8), load_four(p + 12, n - 12)};
}
QWICK_INLINE void store_some(float* p, F32 v, int n) {
  store_four(p, v.a, n);
  store_four(p + 4, v.b, n - 4);
  store_four(p + 8, v.c, n - 8);
  store_four(p + 12, v.d, n - 12);
}

QWICK_INLINE I32 four(int32x4_t v) { return {v, v, v, v}; }
QWICK_INLINE I32 set1(int32_t v) { return four(vdupq_n_s32(v)); }
QWICK_INLINE I32 add(I32 x, I32 y) {
  return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}
QWICK_INLINE F32 to_float(I32 v) {
  return {vcvtq_f32_s32(v.a), vcvtq_f32_s32(v.b), vcvtq_f32_s32(v.c), vcvtq_f32_s32(v.d)};
}
QWICK_INLINE I32 round_to_int(F32 v) {  // to nearest, ties to even
  return {vcvtnq_s32_f32(v.a), vcvtnq_s32_f32(v.b), vcvtnq_s32_f32(v.c), vcvtnq_s32_f32(v.d)};
}
QWICK_INLINE F32 whole(F32 v) { return {vrndnq_f32(v.a), vrndnq_f32(v.b), vrndnq_f32(v.c), vrndnq_f32(v.d)}; }
QWICK_INLINE float32x4_t power(float32x4_t n) {  // 2^n, n from -126 on
  const int32x4_t exponent = vcvtq_s32_f32(vmaxq_f32(vdupq_n_f32(-126.0f), n));
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(exponent, vdupq_n_s32(127)), 23));
}
// p 2^n, next to 0 where that is too small; n whole, at most 127
QWICK_INLINE F32 times_power(F32 p, F32 n) { return mul(p, {power(n.a), power(n.b), power(n.c), power(n.d)}); }
QWICK_INLINE int reduce_add(I32 v) { return vaddvq_s32(vaddq_s32(vaddq_s32(v.a, v.b), vaddq_s32(v.c, v.d))); }
QWICK_INLINE void store_i8(int8_t* p, I32 v) {
  const int16x8_t low = vcombine_s16(vqmovn_s32(v.a), vqmovn_s32(v.b));
  const int16x8_t high = vcombine_s16(vqmovn_s32(v.c), vqmovn_s32(v.d));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
QWICK_INLINE void store_u8(uint8_t* p, I32 v) {
  const uint16x8_t low = vcombine_u16(vqmovun_s32(v.a), vqmovun_s32(v.b));
  const uint16x8_t high = vcombine_u16(vqmovun_s32(v.c), vqmovun_s32(v.d));
  vst1q_u8(p, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
}

QWICK_INLINE float32x4_t widened(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }
QWICK_INLINE F32 load_bf16(const uint16_t* p) {
  return {widened(vld1_u16(p)), widened(vld1_u16(p + 4)), widened(vld1_u16(p + 8)), widened(vld1_u16(p + 12))};
}
QWICK_INLINE uint16x4_t bf16_bits(float32x4_t v) {  // to nearest, ties to even; NaN stays NaN
  const uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), up, vorrq_u32(bits, vdupq_n_u32(0x400000))), 16);
}
QWICK_INLINE void store_bf16(uint16_t* p, F32 v) {
  vst1_u16(p, bf16_bits(v.a));
  vst1_u16(p + 4, bf16_bits(v.b));
  vst1_u16(p + 8, bf16_bits(v.c));
  vst1_u16(p + 12, bf16_bits(v.d));
}

// What meets pairs of bf16: floats, or bf16 where one instruction multiplies pairs.
#ifdef QWICK_I8MM
typedef uint16_t PairElement;
QWICK_INLINE void store_element(uint16_t* p, F32 v) {
  bfloat16_t* to = reinterpret_cast<bfloat16_t*>(p);
  vst1q_bf16(to, vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(v.a), v.b));
  vst1q_bf16(to + 8, vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(v.c), v.d));
}
// acc[lane] += pairs[lane][0] * x[0] + pairs[lane][1] * x[1]
QWICK_INLINE float32x4_t dot_quarter(float32x4_t acc, uint8x16_t pairs, bfloat16x8_t two) {
  return vbfdotq_f32(acc, vreinterpretq_bf16_u8(pairs), two);
}
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const uint16_t* x) {
  uint32_t two;
  memcpy(&two, x, 4);
  const bfloat16x8_t both = vreinterpretq_bf16_u32(vdupq_n_u32(two));
  return {dot_quarter(acc.a, pairs.a, both), dot_quarter(acc.b, pairs.b, both), dot_quarter(acc.c, pairs.c, both),
          dot_quarter(acc.d, pairs.d, both)};
}
#else
typedef float PairElement;
QWICK_INLINE void store_element(float* p, F32 v) { store(p, v); }
QWICK_INLINE float32x4_t dot_quarter(float32x4_t acc, uint8x16_t pairs, float32x2_t two) {
  const uint32x4_t bits = vreinterpretq_u32_u8(pairs);
  const float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(bits, 16));
  const float32x4_t second = vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)));
  return vfmaq_lane_f32(vfmaq_lane_f32(acc, first, two, 0), second, two, 1);
}
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const float* x) {
  const float32x2_t two = vld1_f32(x);
  return {dot_quarter(acc.a, pairs.a, two), dot_quarter(acc.b, pairs.b, two), dot_quarter(acc.c, pairs.c, two),
          dot_quarter(acc.d, pairs.d, two)};
}
#endif
QWICK_INLINE uint8x16_t first_half(uint8x16_t v) {
  return vreinterpretq_u8_u32(vandq_u32(vreinterpretq_u32_u8(v), vdupq_n_u32(0xffff)));
}
QWICK_INLINE U8 first_of_pairs(U8 v) { return {first_half(v.a), first_half(v.b), first_half(v.c), first_half(v.d)}; }
QWICK_INLINE float32x4_t from_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
QWICK_INLINE F32 load_f16(const uint16_t* p) {
  return {from_half(p), from_half(p + 4), from_half(p + 8), from_half(p + 12)};
}
QWICK_INLINE F32 load_u8(const uint8_t* p) {
  const uint8x16_t v = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_high_u8(v);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))};
}
QWICK_INLINE F32 load_i8(const int8_t* p) {
  const int8x16_t v = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}

QWICK_INLINE U8 load_bytes(const uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
QWICK_INLINE void store_bytes(uint8_t* p, U8 v) {
  vst1q_u8(p, v.a);
  vst1q_u8(p + 16, v.b);
  vst1q_u8(p + 32, v.c);
  vst1q_u8(p + 48, v.d);
}
QWICK_INLINE U8 bits_xor(U8 x, U8 y) {
  return {veorq_u8(x.a, y.a), veorq_u8(x.b, y.b), veorq_u8(x.c, y.c), veorq_u8(x.d, y.d)};
}
QWICK_INLINE U8 low_nibbles(U8 v) {
  const uint8x16_t mask = vdupq_n_u8(15);
  return {vandq_u8(v.a, mask), vandq_u8(v.b, mask), vandq_u8(v.c, mask), vandq_u8(v.d, mask)};
}
QWICK_INLINE U8 high_nibbles(U8 v) {
  return {vshrq_n_u8(v.a, 4), vshrq_n_u8(v.b, 4), vshrq_n_u8(v.c, 4), vshrq_n_u8(v.d, 4)};
}
template <int shift, int mask>
QWICK_INLINE uint8x16_t shifted_and(uint8x16_t v) {  // left when positive
  if constexpr (shift > 0) v = vshlq_n_u8(v, shift);
  if constexpr (shift < 0) v = vshrq_n_u8(v, -shift);
  return vandq_u8(v, vdupq_n_u8(mask));
}
template <int shift, int mask>
QWICK_INLINE U8 shifted_and(U8 v) {
  return {shifted_and<shift, mask>(v.a), shifted_and<shift, mask>(v.b), shifted_and<shift, mask>(v.c),
          shifted_and<shift, mask>(v.d)};
}
QWICK_INLINE U8 bits_or(U8 x, U8 y) {
  return {vorrq_u8(x.a, y.a), vorrq_u8(x.b, y.b), vorrq_u8(x.c, y.c), vorrq_u8(x.d, y.d)};
}
template <int t>
QWICK_INLINE U8 two_bits(U8 plane) {
  return shifted_and<-2 * t, 3>(plane);
}
template <int t, int place>
QWICK_INLINE U8 with_bit(U8 low, U8 plane) {
  return bits_or(low, shifted_and<place - t, 1 << place>(plane));
}
template <int t>
QWICK_INLINE U8 with_bits(U8 low, U8 plane) {
  return bits_or(low, shifted_and<4 - 2 * t, 48>(plane));
}
QWICK_INLINE U8 table_values(U8 places, const uint8_t* table) {
  const uint8x16_t values = vld1q_u8(table);
  return {vqtbl1q_u8(values, places.a), vqtbl1q_u8(values, places.b), vqtbl1q_u8(values, places.c),
          vqtbl1q_u8(values, places.d)};
}

// The largest lane of each of eight, in the first eight lanes.
QWICK_INLINE F32 row_tops(const F32 (&v)[8]) {
  const float32x4_t low = vpmaxq_f32(vpmaxq_f32(top_of(v[0]), top_of(v[1])), vpmaxq_f32(top_of(v[2]), top_of(v[3])));
  const float32x4_t high = vpmaxq_f32(vpmaxq_f32(top_of(v[4]), top_of(v[5])), vpmaxq_f32(top_of(v[6]), top_of(v[7])));
  return {low, high, vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
}

constexpr bool kQuantizesBlocks = false;  // eight rows at once: only simd/avx512.h
QWICK_INLINE bool quantize_block(const float*, size_t, uint8_t*) { return false; }
