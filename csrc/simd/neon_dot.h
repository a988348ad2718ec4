// The 8-bit dot products of simd/neon.h, and what they take: 64 bytes against four, the same in every lane.
// Included after it.
//
// Of a register: acc[lane] += sum over b of w[4 lane + b] * x[4 lane + b]. DOTPROD multiplies bytes of like signs only,
// as plain NEON does: `flipped` makes signed bytes of those that are 128 too large, and the other way round.

QWICK_INLINE int8x16_t as_signed(uint8x16_t v) { return vreinterpretq_s8_u8(v); }
QWICK_INLINE int8x16_t four_bytes(const void* p) {  // the same in every lane
  int32_t both;
  memcpy(&both, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(both));
}

#ifdef QWICK_I8MM

constexpr bool kLikeSigns = false;
QWICK_INLINE U8 flipped(U8 v) { return v; }
QWICK_INLINE int32x4_t dot_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) { return vusdotq_s32(acc, w, x); }
template <int lane>
QWICK_INLINE int32x4_t dot_lane(int32x4_t acc, uint8x16_t w, int8x16_t x) {
  return vusdotq_laneq_s32(acc, w, x, lane);
}
QWICK_INLINE int32x4_t dot_signed_quarter(int32x4_t acc, uint8x16_t v, uint8x16_t p) {
  return vusdotq_s32(acc, p, as_signed(v));
}

#else

constexpr bool kLikeSigns = true;
QWICK_INLINE U8 flipped(U8 v) {
  const uint8x16_t sign = vdupq_n_u8(0x80);
  return bits_xor(v, {sign, sign, sign, sign});
}
#ifdef QWICK_DOTPROD
QWICK_INLINE int32x4_t dot_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) { return vdotq_s32(acc, as_signed(w), x); }
template <int lane>
QWICK_INLINE int32x4_t dot_lane(int32x4_t acc, uint8x16_t w, int8x16_t x) {
  return vdotq_laneq_s32(acc, as_signed(w), x, lane);
}
QWICK_INLINE int32x4_t dot_signed_quarter(int32x4_t acc, uint8x16_t v, uint8x16_t p) {
  return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(acc), v, p));
}
#else
// Sums of two products fit 16 bits: x is at least -127.
QWICK_INLINE int32x4_t dot_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) {
  const int16x8_t low = vmull_s8(vget_low_s8(as_signed(w)), vget_low_s8(x)), high = vmull_high_s8(as_signed(w), x);
  return vpadalq_s16(acc, vpaddq_s16(low, high));
}
QWICK_INLINE int32x4_t dot_signed_quarter(int32x4_t acc, uint8x16_t v, uint8x16_t p) {
  const uint16x8_t low = vmull_u8(vget_low_u8(v), vget_low_u8(p)), high = vmull_high_u8(v, p);
  return vaddq_s32(acc, vreinterpretq_s32_u32(vpaddq_u32(vpaddlq_u16(low), vpaddlq_u16(high))));
}
#endif

#endif

QWICK_INLINE I32 dot_four(I32 acc, U8 w, int8x16_t x) {
  return {dot_quarter(acc.a, w.a, x), dot_quarter(acc.b, w.b, x), dot_quarter(acc.c, w.c, x),
          dot_quarter(acc.d, w.d, x)};
}
template <bool wide>
QWICK_INLINE I32 dot(I32 acc, U8 w, const int8_t* x) {
  return dot_four(acc, w, four_bytes(x));
}
// acc[lane] += sum over b of v[4 lane + b] * p[b]; v signed and flipped, p four unsigned bytes.
QWICK_INLINE I32 dot_signed(I32 acc, U8 v, const uint8_t* p) {
  const uint8x16_t x = vreinterpretq_u8_s8(four_bytes(p));
  return {dot_signed_quarter(acc.a, v.a, x), dot_signed_quarter(acc.b, v.b, x), dot_signed_quarter(acc.c, v.c, x),
          dot_signed_quarter(acc.d, v.d, x)};
}

#ifdef QWICK_DOTPROD

// Four bytes of x from a lane of a register: one load serves four dot products.
template <int lane>
QWICK_INLINE I32 dot_with(I32 acc, U8 w, int8x16_t x) {
  return {dot_lane<lane>(acc.a, w.a, x), dot_lane<lane>(acc.b, w.b, x), dot_lane<lane>(acc.c, w.c, x),
          dot_lane<lane>(acc.d, w.d, x)};
}
// acc[i] += w * the four bytes at x + 4 i.
template <bool wide, int N>
QWICK_INLINE void dot_rows_of(I32 (&acc)[N], U8 w, const int8_t* x) {
  if constexpr (N == 4) {
    const int8x16_t all = vld1q_s8(x);
    acc[0] = dot_with<0>(acc[0], w, all);
    acc[1] = dot_with<1>(acc[1], w, all);
    acc[2] = dot_with<2>(acc[2], w, all);
    acc[3] = dot_with<3>(acc[3], w, all);
  } else {
    for (int i = 0; i < N; ++i) acc[i] = dot<wide>(acc[i], w, x + 4 * i);
  }
}
// Four steps: acc += op[t] * the four bytes at x + t * apart.
template <Kind kind>
QWICK_INLINE I32 dot4(I32 acc, const U8* op, const int8_t* x, int apart) {
  if (apart == 4) {  // known when this is compiled
    const int8x16_t all = vld1q_s8(x);
    return dot_with<3>(dot_with<2>(dot_with<1>(dot_with<0>(acc, op[0], all), op[1], all), op[2], all), op[3], all);
  }
  for (int t = 0; t < 4; ++t) acc = dot<true>(acc, op[t], x + t * apart);
  return acc;
}

#else

template <bool wide, int N>
QWICK_INLINE void dot_rows_of(I32 (&acc)[N], U8 w, const int8_t* x) {
  for (int i = 0; i < N; ++i) acc[i] = dot<wide>(acc[i], w, x + 4 * i);
}
// A register of four steps: as many products as fit 16 bits are summed there, which saves the widening.
template <Kind kind>
QWICK_INLINE int32x4_t dot4_quarter(int32x4_t acc, uint8x16_t w0, uint8x16_t w1, uint8x16_t w2, uint8x16_t w3,
                                    const int8x16_t (&x)[4]) {
  if constexpr (largest_quant(kind) < 64) {
    const int8x16_t s0 = as_signed(w0), s1 = as_signed(w1), s2 = as_signed(w2), s3 = as_signed(w3);
    int16x8_t low = vmull_s8(vget_low_s8(s0), vget_low_s8(x[0])), high = vmull_high_s8(s0, x[0]);
    low = vmlal_s8(low, vget_low_s8(s1), vget_low_s8(x[1])), high = vmlal_high_s8(high, s1, x[1]);
    low = vmlal_s8(low, vget_low_s8(s2), vget_low_s8(x[2])), high = vmlal_high_s8(high, s2, x[2]);
    low = vmlal_s8(low, vget_low_s8(s3), vget_low_s8(x[3])), high = vmlal_high_s8(high, s3, x[3]);
    constexpr bool eight_fit = 8 * 127 * largest_quant(kind) < 32768;
    if constexpr (eight_fit) return vpadalq_s16(acc, vpaddq_s16(low, high));
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
  return dot_quarter(dot_quarter(dot_quarter(dot_quarter(acc, w0, x[0]), w1, x[1]), w2, x[2]), w3, x[3]);
}
// Four steps: acc += op[t] * the four bytes at x + t * apart.
template <Kind kind>
QWICK_INLINE I32 dot4(I32 acc, const U8* op, const int8_t* p, int apart) {
  const int8x16_t x[4] = {four_bytes(p), four_bytes(p + apart), four_bytes(p + 2 * apart), four_bytes(p + 3 * apart)};
  return {dot4_quarter<kind>(acc.a, op[0].a, op[1].a, op[2].a, op[3].a, x),
          dot4_quarter<kind>(acc.b, op[0].b, op[1].b, op[2].b, op[3].b, x),
          dot4_quarter<kind>(acc.c, op[0].c, op[1].c, op[2].c, op[3].c, x),
          dot4_quarter<kind>(acc.d, op[0].d, op[1].d, op[2].d, op[3].d, x)};
}

#endif
