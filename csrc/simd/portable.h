// 16 lanes of float or int and 64 bytes, in GCC/Clang vector extensions: runs on any CPU, and is the reading
// copy of simd/avx512.h, which has the same functions. Included once per isa/*.cpp inside its namespace.
// No standard headers with inline code here: the linker could keep one ISA's copy for everyone.

typedef float F32 __attribute__((vector_size(64), aligned(4)));
typedef int32_t I32 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t U32 __attribute__((vector_size(64), aligned(4)));
typedef uint8_t U8 __attribute__((vector_size(64), aligned(1)));
typedef int16_t I16x32 __attribute__((vector_size(64), aligned(2)));

#define QWICK_INLINE static inline __attribute__((always_inline))
#define QWICK_DECODE __attribute__((noinline))  // once per class, not for every number of rows: half of the code

constexpr int kBlocksAtOnce = 1;  // of rows that share what decoding weights costs
constexpr int kRowsInStep = 1;  // whose dot products alternate
constexpr int kPageRows = 2;  // of attention, that share what is loaded of a page
constexpr int kFloatPanelRows = 2;
constexpr int kPeakSums = 4;  // independent dot products that hide its latency and fit the registers

QWICK_INLINE F32 load(const float* p) { return *reinterpret_cast<const F32*>(p); }
QWICK_INLINE void store(float* p, F32 v) { *reinterpret_cast<F32*>(p) = v; }
QWICK_INLINE F32 set1(float v) {
  F32 out;
  for (int i = 0; i < 16; ++i) out[i] = v;
  return out;
}
QWICK_INLINE F32 add(F32 a, F32 b) { return a + b; }
QWICK_INLINE F32 sub(F32 a, F32 b) { return a - b; }
QWICK_INLINE F32 mul(F32 a, F32 b) { return a * b; }
QWICK_INLINE F32 div(F32 a, F32 b) { return a / b; }
QWICK_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
QWICK_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }
QWICK_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }
QWICK_INLINE F32 abs(F32 a) { return reinterpret_cast<F32>(reinterpret_cast<U32>(a) & 0x7fffffffu); }
QWICK_INLINE float reduce_add(F32 v) {
  float s = 0;
  for (int i = 0; i < 16; ++i) s += v[i];
  return s;
}
QWICK_INLINE float reduce_max(F32 v) {
  float s = v[0];
  for (int i = 1; i < 16; ++i) s = v[i] > s ? v[i] : s;
  return s;
}
QWICK_INLINE bool unordered(F32 a, F32 b) {  // whether any lane of either is NaN
  bool found = false;
  for (int i = 0; i < 16; ++i) found |= a[i] != a[i] || b[i] != b[i];
  return found;
}
QWICK_INLINE bool equal(F32 a, F32 b) {  // in every lane
  bool all = true;
  for (int i = 0; i < 16; ++i) all &= a[i] == b[i];
  return all;
}
QWICK_INLINE F32 first_lanes(F32 a, F32 b, int n) {  // lanes 0..n-1 of a, the others of b
  for (int i = 0; i < 16; ++i) a[i] = i < n ? a[i] : b[i];
  return a;
}
QWICK_INLINE F32 load_some(const float* p, int n) {
  F32 v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
QWICK_INLINE void store_some(float* p, F32 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

QWICK_INLINE I32 set1(int32_t v) {
  I32 out;
  for (int i = 0; i < 16; ++i) out[i] = v;
  return out;
}
QWICK_INLINE I32 add(I32 a, I32 b) { return a + b; }
QWICK_INLINE F32 to_float(I32 v) { return __builtin_convertvector(v, F32); }
QWICK_INLINE F32 whole(F32 v) {  // to nearest, ties to even, for |v| < 2^22
  const F32 magic = set1(12582912.0f);
  return (v + magic) - magic;
}
QWICK_INLINE I32 round_to_int(F32 v) { return __builtin_convertvector(whole(v), I32); }
// p 2^n, next to 0 where that is too small; n whole, at most 127
QWICK_INLINE F32 times_power(F32 p, F32 n) {
  const I32 exponent = __builtin_convertvector(max(set1(-126.0f), n), I32);
  return p * reinterpret_cast<F32>((exponent + 127) << 23);
}
QWICK_INLINE int reduce_add(I32 v) {
  int s = 0;
  for (int i = 0; i < 16; ++i) s += v[i];
  return s;
}
QWICK_INLINE void store_i8(int8_t* p, I32 v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v[i]);
}

QWICK_INLINE void store_u8(uint8_t* p, I32 v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(v[i]);
}
QWICK_INLINE F32 load_bf16(const uint16_t* p) {
  U32 bits;
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<uint32_t>(p[i]) << 16;
  return reinterpret_cast<F32>(bits);
}
QWICK_INLINE void store_bf16(uint16_t* p, F32 v) {  // to nearest, ties to even; NaN stays NaN
  const U32 bits = reinterpret_cast<U32>(v);
  for (int i = 0; i < 16; ++i) {
    const uint32_t b = bits[i];
    p[i] = (b & 0x7fffffffu) > 0x7f800000u ? (b >> 16 | 0x40) : (b + 0x7fff + (b >> 16 & 1)) >> 16;
  }
}
typedef float PairElement;  // what meets pairs of bf16
QWICK_INLINE void store_element(float* p, F32 v) { store(p, v); }
// acc[lane] += pairs[lane][0] * x[0] + pairs[lane][1] * x[1]
QWICK_INLINE F32 dot_pairs(F32 acc, U8 pairs, const float* x) {
  const U32 bits = reinterpret_cast<U32>(pairs);
  const F32 first = reinterpret_cast<F32>(bits << 16), second = reinterpret_cast<F32>(bits & 0xffff0000u);
  return fma(second, set1(x[1]), fma(first, set1(x[0]), acc));
}
QWICK_INLINE U8 first_of_pairs(U8 pairs) { return reinterpret_cast<U8>(reinterpret_cast<U32>(pairs) & 0xffffu); }
QWICK_INLINE float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  uint32_t bits = magnitude + ((magnitude & 0x0f800000u) == 0x0f800000u ? 0x70000000u : 0x38000000u);
  float out;
  if ((h & 0x7c00) == 0) {  // zero and subnormals
    out = static_cast<float>(h & 1023) * 0x1p-24f;
    memcpy(&bits, &out, 4);
  }
  bits |= static_cast<uint32_t>(h & 0x8000) << 16;
  memcpy(&out, &bits, 4);
  return out;
}
QWICK_INLINE F32 load_f16(const uint16_t* p) {
  F32 v;
  for (int i = 0; i < 16; ++i) v[i] = half_to_float(p[i]);
  return v;
}
QWICK_INLINE F32 load_u8(const uint8_t* p) {
  F32 v;
  for (int i = 0; i < 16; ++i) v[i] = p[i];
  return v;
}
QWICK_INLINE F32 load_i8(const int8_t* p) {
  F32 v;
  for (int i = 0; i < 16; ++i) v[i] = p[i];
  return v;
}

QWICK_INLINE U8 load_bytes(const uint8_t* p) { return *reinterpret_cast<const U8*>(p); }
QWICK_INLINE void store_bytes(uint8_t* p, U8 v) { *reinterpret_cast<U8*>(p) = v; }
QWICK_INLINE U8 bits_xor(U8 a, U8 b) { return a ^ b; }
QWICK_INLINE U8 low_nibbles(U8 v) { return v & 15; }
QWICK_INLINE U8 high_nibbles(U8 v) { return v >> 4; }
template <int t>
QWICK_INLINE U8 two_bits(U8 plane) {  // bits 2t, 2t+1
  return plane >> 2 * t & 3;
}
template <int t, int place>
QWICK_INLINE U8 with_bit(U8 low, U8 plane) {  // low | bit t of plane at `place`
  return low | ((plane >> t & 1) << place);
}
template <int t>
QWICK_INLINE U8 with_bits(U8 low, U8 plane) {  // low | bits 2t, 2t+1 of plane as values 16, 32
  return low | ((plane >> 2 * t & 3) << 4);
}
QWICK_INLINE U8 table_values(U8 places, const uint8_t* table) {  // of 16 bytes; places below 16
  for (int i = 0; i < 64; ++i) places[i] = table[places[i]];
  return places;
}
// Whether a dot product takes bytes of like signs only (simd/neon.h). What would meet the other sign goes through `flipped`,
// which changes the top bit: unsigned w above 127 get 128 less, signed v 128 more, and sums start accordingly.
constexpr bool kLikeSigns = false;
QWICK_INLINE U8 flipped(U8 v) { return v; }
// acc[lane] += sum over b of w[4 lane + b] * x[b]; w unsigned, x four signed bytes from -127 to 127, so that
// each product fits 16 bits. wide: w may exceed 129, and the sum of two products 16 bits.
template <bool wide>
QWICK_INLINE I32 dot(I32 acc, U8 w, const int8_t* x) {
  const I16x32 x02 = reinterpret_cast<I16x32>(set1(static_cast<int32_t>((x[2] * 65536) | (x[0] & 0xffff))));
  const I16x32 x13 = reinterpret_cast<I16x32>(set1(static_cast<int32_t>((x[3] * 65536) | (x[1] & 0xffff))));
  const I32 p02 = reinterpret_cast<I32>((reinterpret_cast<I16x32>(w) & 255) * x02);
  const I32 p13 = reinterpret_cast<I32>((reinterpret_cast<I16x32>(w) >> 8 & 255) * x13);
  return acc + (p02 << 16 >> 16) + (p02 >> 16) + (p13 << 16 >> 16) + (p13 >> 16);
}
// acc[lane] += sum over b of v[4 lane + b] * p[b]; v signed, p four unsigned bytes: each product fits 16 bits.
QWICK_INLINE I32 dot_signed(I32 acc, U8 v, const uint8_t* p) {
  const I16x32 p02 = reinterpret_cast<I16x32>(set1(static_cast<int32_t>(p[2] * 65536 | p[0])));
  const I16x32 p13 = reinterpret_cast<I16x32>(set1(static_cast<int32_t>(p[3] * 65536 | p[1])));
  const I32 v02 = reinterpret_cast<I32>((reinterpret_cast<I16x32>(v) << 8 >> 8) * p02);
  const I32 v13 = reinterpret_cast<I32>((reinterpret_cast<I16x32>(v) >> 8) * p13);
  return acc + (v02 << 16 >> 16) + (v02 >> 16) + (v13 << 16 >> 16) + (v13 >> 16);
}
// acc[i] += w * the four bytes at x + 4 i.
template <bool wide, int N>
QWICK_INLINE void dot_rows_of(I32 (&acc)[N], U8 w, const int8_t* x) {
  for (int i = 0; i < N; ++i) acc[i] = dot<wide>(acc[i], w, x + 4 * i);
}
// Four steps: acc += op[t] * the four bytes at x + t * apart.
// Once for all kernels: the compiler makes some hundred instructions of it.
static __attribute__((noinline, noclone)) I32 four_dots(I32 acc, const U8* op, const int8_t* x, int apart) {
  for (int t = 0; t < 4; ++t) acc = dot<true>(acc, op[t], x + t * apart);
  return acc;
}
template <Kind>
QWICK_INLINE I32 dot4(I32 acc, const U8* op, const int8_t* x, int apart) {
  return four_dots(acc, op, x, apart);
}

// The largest lane of each of eight, in the first eight lanes.
QWICK_INLINE F32 row_tops(const F32 (&v)[8]) {
  float top[16] = {};
  for (int r = 0; r < 8; ++r) top[r] = reduce_max(v[r]);
  return load(top);
}

constexpr bool kQuantizesBlocks = false;  // eight rows at once: only simd/avx512.h
QWICK_INLINE bool quantize_block(const float*, size_t, uint8_t*) { return false; }
