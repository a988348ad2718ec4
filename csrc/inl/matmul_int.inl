// y = x W^T for packed integer weights and 8-bit activations: exact integer dot products per group of 32 (or
// 16), scaled and summed in float32. Included inside an ISA's namespace.
//
// With w = s * (q - z) and x = a * p per group, sum w x = s * a * (sum q p - z * sum p): the zero point costs
// only the integer that the accumulator starts from. Where a minimum is stored, w = s * q - o, and the second term is
// one more multiply-add with o.

// ---- quants -----------------------------------------------------------------------------------------------

// The 8 steps of a group of one tile, from its planes (kinds.h).
template <int bits>
struct Bits;

template <>
struct Bits<8> {
  const uint8_t* p;
  QWICK_INLINE Bits open(const uint8_t* p) { return {p}; }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return load_bytes(p + 64 * t); }
};
template <>
struct Bits<2> {
  U8 v[2];
  QWICK_INLINE Bits open(const uint8_t* p) { return {{load_bytes(p), load_bytes(p + 64)}}; }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return two_bits<t % 4>(v[t / 4]); }
};
template <>
struct Bits<3> {
  Bits<2> low;
  U8 high;
  QWICK_INLINE Bits open(const uint8_t* p) { return {Bits<2>::open(p), load_bytes(p + 128)}; }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return with_bit<t, 2>(low.template step<t>(), high); }
};
template <>
struct Bits<4> {
  U8 v[4];
  QWICK_INLINE Bits open(const uint8_t* p) {
    return {{load_bytes(p), load_bytes(p + 64), load_bytes(p + 128), load_bytes(p + 192)}};
  }
  template <int t>
  __attribute__((always_inline)) U8 step() const {
    return t % 2 ? high_nibbles(v[t / 2]) : low_nibbles(v[t / 2]);
  }
};
template <>
struct Bits<5> {
  Bits<4> low;
  U8 high;
  QWICK_INLINE Bits open(const uint8_t* p) { return {Bits<4>::open(p), load_bytes(p + 256)}; }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return with_bit<t, 4>(low.template step<t>(), high); }
};
template <>
struct Bits<6> {
  Bits<4> low;
  U8 high[2];
  QWICK_INLINE Bits open(const uint8_t* p) {
    return {Bits<4>::open(p), {load_bytes(p + 256), load_bytes(p + 320)}};
  }
  template <int t>
  __attribute__((always_inline)) U8 step() const {
    return with_bits<t % 4>(low.template step<t>(), high[t / 4]);
  }
};

// Quants that need all 8 bits have a zero point of 128. Where it is flipped off, sums start from 0.
template <Kind kind>
constexpr bool is_flipped = kLikeSigns && largest_quant(kind) > 127;

template <Kind kind, int t>
QWICK_INLINE U8 operand(const Bits<quant_bits(kind)>& quants) {
  U8 v = quants.template step<t>();
  if constexpr (from_table(kind)) v = table_values(v, table_of(kind));
  if constexpr (is_flipped<kind>) v = flipped(v);
  return v;
}

// ---- scales -----------------------------------------------------------------------------------------------

// The float scales of a group: of k 0..15 and of k 16..31 where each half has its own, else the first of all. offset:
// what is subtracted, where a minimum is stored.
struct Scales {
  F32 scale[2], offset[2];
};
// s: of this group; super: of its 256 k.
template <Kind kind>
QWICK_INLINE Scales group_scales(const uint8_t* s, const uint8_t* super) {
  const uint16_t *at = reinterpret_cast<const uint16_t*>(s), *d = reinterpret_cast<const uint16_t*>(super);
  const F32 none = set1(0.0f);
  if constexpr (scaling(kind) == Scaling::One) {
    return {{load_f16(at), none}, {none, none}};
  } else if constexpr (scaling(kind) == Scaling::Minimum) {
    return {{load_f16(at), none}, {sub(none, load_f16(at + kTile)), none}};
  } else if constexpr (scaling(kind) == Scaling::Zero) {
    return {{load_f16(at), none}, {mul(load_f16(at), load_u8(s + 2 * kTile)), none}};
  } else if constexpr (scaling(kind) == Scaling::Power) {  // in two steps: below 2^-126 there is one bit left
    const F32 n = add(load_u8(s), set1(-128.0f)), least = set1(-126.0f);
    return {{times_power(times_power(set1(1.0f), max(n, least)), min(sub(n, least), none)), none}, {none, none}};
  } else if constexpr (scaling(kind) == Scaling::Signed) {
    const int8_t* i = reinterpret_cast<const int8_t*>(s);
    return {{mul(load_f16(d), load_i8(i)), halves(kind) > 1 ? mul(load_f16(d), load_i8(i + kTile)) : none}, {none, none}};
  } else if constexpr (halves(kind) > 1) {  // two nibbles: the higher is what is left of a sixteenth, rounded down
    Scales both;
    for (int h = 0; h < 2; ++h) {
      const F32 byte = load_u8(s + h * kTile), high = whole(fma(byte, set1(1.0f / 16), set1(-15.0f / 32)));
      both.scale[h] = mul(load_f16(d), fma(high, set1(-16.0f), byte));
      both.offset[h] = mul(load_f16(d + kTile), high);
    }
    return both;
  } else {
    return {{mul(load_f16(d), load_u8(s)), none}, {mul(load_f16(d + kTile), load_u8(s + kTile)), none}};
  }
}

// Where the integer sum of row r begins, of R: minus its sum of quants times the zero point. `half` of the group, where
// each has its scale. The activations have it for some zero points, whose parts the others are.
template <Kind kind>
QWICK_INLINE int32_t start_of(const int32_t* starts, int R, int half) {
  constexpr int zero = zero_point(kind);
  static_assert(!is_flipped<kind> || zero == 128);
  if constexpr (zero == 0 || is_flipped<kind>) return 0;
  if constexpr (halves(kind) > 1) return starts[(4 + half) * R] / (32 / zero);
  if constexpr (zero < 16) return starts[R] / (16 / zero);
  return starts[(zero == 16 ? 1 : 2) * R];
}
// Minus the row's sum of quants, which a minimum is multiplied with.
template <Kind kind>
QWICK_INLINE float minus_sum(const float* floats, int R, int half) {
  if constexpr (halves(kind) == 1) return floats[3 * R];
  return static_cast<float>(reinterpret_cast<const int32_t*>(floats)[(4 + half) * R]) * (1.0f / 32);
}

// The sums of up to 16 outputs from `column` on, of which `left` exist.
QWICK_INLINE void put(const Output& out, int row, int column, int left, F32 v) {
  const int n = left < kTile ? left : kTile;
  if (out.bias) v = add(v, load_some(out.bias + column, n));
  float* y = out.y + static_cast<size_t>(row) * out.ld + column;
  if (n == kTile) {
    store(y, v);
  } else {
    store_some(y, v, n);
  }
}

// Every way below adds up in the same order, so a row's result does not depend on how many rows there are: group by
// group, part = scale * (integer sum) [- offset * (sum of quants)], of the first half and then of the second where each has
// its scale; then sum += part * (the group's activation scale).

// ---- operands of a tile -----------------------------------------------------------------------------------

template <Kind kind>
struct Group {
  U8 op[8];  // step by step, what the dot product takes
  Scales s;
};

// Bytes of weights asked for before they are needed, into the second and into the first cache: the hardware's own
// prefetching stops at every 4 KB, and a memory that several cores share answers late.
constexpr int kAhead = 64 << 10, kNear = 3 << 10;

// A tile's groups, decoded in registers whenever they are asked for: while the dot products of the rows keep two units
// busy, others decode, and a panel of decoded weights was no faster even for many rows.
template <Kind kind>
struct Operands {
  const uint8_t *quants, *scales, *super;
  size_t share;  // of the tile's bytes, scales included, that each group asks for

  Operands(const Segment& w, int t)
      : quants(w.tile(t)), scales(quants + static_cast<size_t>(w.k / kGroup) * quant_bytes(kind)),
        super(scales + static_cast<size_t>(w.k / kGroup) * scale_bytes(kind)), share(w.tile_bytes * kGroup / w.k) {}
  QWICK_DECODE Group<kind> group(int g) const {
    const auto q = Bits<quant_bits(kind)>::open(quants + static_cast<size_t>(g) * quant_bytes(kind));
    return {{operand<kind, 0>(q), operand<kind, 1>(q), operand<kind, 2>(q), operand<kind, 3>(q), operand<kind, 4>(q),
             operand<kind, 5>(q), operand<kind, 6>(q), operand<kind, 7>(q)},
            group_scales<kind>(scales + static_cast<size_t>(g) * scale_bytes(kind), super + g / 8 * super_bytes(kind))};
  }
  // new_weights: nobody has read them yet in this product; else they are in the second cache.
  __attribute__((always_inline)) void ask_ahead(int g, bool new_weights) const {
    constexpr int kMost = quant_bytes(kind) + 64;  // a share is not more
    const uint8_t* p = quants + g * share;
    for (int i = 0; i < kMost; i += 64) __builtin_prefetch(p + i + kNear, 0, 3);
    if (new_weights)
      for (int i = 0; i < kMost; i += 64) __builtin_prefetch(p + i + kAhead, 0, 2);
  }
};

// ---- a tile against rows ----------------------------------------------------------------------------------

// The integer sums of N rows from row r on, in step: a dot product waits for the one before it, and few can wait at a
// time. `x`: a group of R rows (kernels.h); `op`: its steps from `first` on; `acc`: where the sums start.
template <Kind kind, int R, int N>
QWICK_INLINE void dot_rows(I32 (&acc)[N], const U8* op, const uint8_t* x, int r, int first, int steps) {
  const int8_t* q = reinterpret_cast<const int8_t*>(x) + 4 * (first * R + r);
  if constexpr (N == 1) {
    for (int t = 0; t < steps; t += 4) acc[0] = dot4<kind>(acc[0], op + t, q + 4 * t * R, 4 * R);
  } else {
#pragma GCC unroll 8
    for (int t = 0; t < steps; ++t) dot_rows_of<(largest_quant(kind) > 129)>(acc, op[t], q + 4 * t * R);
  }
}

// What a group of the rows r..r + N - 1 adds to their sums.
template <Kind kind, int R, int N>
QWICK_INLINE void add_group(F32* sum, const Group<kind>& w, const uint8_t* x, int r) {
  const float* floats = reinterpret_cast<const float*>(x + R * kGroup) + r;
  const int32_t* starts = reinterpret_cast<const int32_t*>(floats);
  F32 part[N];
  I32 acc[N];
  constexpr int steps = 8 / halves(kind);
  for (int i = 0; i < N; ++i) acc[i] = set1(start_of<kind>(starts + i, R, 0));
  dot_rows<kind, R, N>(acc, w.op, x, r, 0, steps);
  for (int i = 0; i < N; ++i) part[i] = mul(to_float(acc[i]), w.s.scale[0]);
  if constexpr (halves(kind) > 1) {
    for (int i = 0; i < N; ++i) acc[i] = set1(start_of<kind>(starts + i, R, 1));
    dot_rows<kind, R, N>(acc, w.op + steps, x, r, steps, steps);
    for (int i = 0; i < N; ++i) part[i] = fma(to_float(acc[i]), w.s.scale[1], part[i]);
  }
  if constexpr (has_minimum(kind))
    for (int h = 0; h < halves(kind); ++h)
      for (int i = 0; i < N; ++i) part[i] = fma(w.s.offset[h], set1(minus_sum<kind>(floats + i, R, h)), part[i]);
  for (int i = 0; i < N; ++i) sum[i] = fma(part[i], set1(floats[i]), sum[i]);
}

// All R rows of a block, N at a time and then the rest.
template <Kind kind, int R, int r = 0>
QWICK_INLINE void add_block(F32 (&sum)[R], const Group<kind>& w, const uint8_t* x) {
  constexpr int N = R - r < kRowsInStep ? R - r : kRowsInStep;
  add_group<kind, R, N>(sum + r, w, x, r);
  if constexpr (r + N < R) add_block<kind, R, r + N>(sum, w, x);
}

// B blocks of R rows from row `first` on. Two blocks share what decoding a group costs.
template <Kind kind, int R, int B>
static void int_rows(const Segment& w, int t, const Rows& rows, int first, const Output& out) {
  const Operands<kind> operands(w, t);
  const uint8_t* x = rows.group(first, 0, R);
  const size_t block = static_cast<size_t>(R) * rows.groups() * kRowGroupBytes;
  F32 sum[B][R];
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) sum[b][r] = set1(0.0f);
  for (int g = 0; g < rows.groups(); ++g, x += R * kRowGroupBytes) {
    const Group<kind> group = operands.group(g);
    operands.ask_ahead(g, first == 0);
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) add_block<kind, R>(sum[b], group, x + b * block);
  }
  const int column = t * kTile, left = w.n - column;
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) put(out, first + b * R + r, w.first + column, left, sum[b][r]);
}

template <Kind kind, int R>
static void int_rest(const Segment& w, int t0, int t1, const Rows& x, int first, const Output& out) {
  if constexpr (R > 0) {
    if (x.m - first != R) return int_rest<kind, R - 1>(w, t0, t1, x, first, out);
    for (int t = t0; t < t1; ++t) int_rows<kind, R, 1>(w, t, x, first, out);
  }
}

// Rows and tiles of some rows and some tiles: what is read again comes from the first or the second cache, and results go
// to memory several lines at a time.
constexpr int kTilesAtOnce = 8;

template <Kind kind>
static void matmul_int(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  constexpr int R = kRowBlock, B = kBlocksAtOnce;
  for (; t0 < t1; t0 += kTilesAtOnce) {
    const int end = t0 + kTilesAtOnce < t1 ? t0 + kTilesAtOnce : t1;
    int first = 0;
    for (; first + B * R <= x.m; first += B * R)
      for (int t = t0; t < end; ++t) int_rows<kind, R, B>(w, t, x, first, out);
    for (; B > 1 && first + R <= x.m; first += R)
      for (int t = t0; t < end; ++t) int_rows<kind, R, 1>(w, t, x, first, out);
    int_rest<kind, R - 1>(w, t0, end, x, first, out);
  }
}

// f(Class<kind>()) for the integer class `kind`.
template <Kind k>
struct Class {
  static constexpr Kind kind = k;
};
template <class F>
static void for_class(Kind kind, const F& f) {
  switch (kind) {
    case Kind::I2K: return f(Class<Kind::I2K>());
    case Kind::I3S: return f(Class<Kind::I3S>());
    case Kind::I4: return f(Class<Kind::I4>());
    case Kind::I4M: return f(Class<Kind::I4M>());
    case Kind::I4K: return f(Class<Kind::I4K>());
    case Kind::I4N: return f(Class<Kind::I4N>());
    case Kind::I4NS: return f(Class<Kind::I4NS>());
    case Kind::I4Z: return f(Class<Kind::I4Z>());
    case Kind::I4F: return f(Class<Kind::I4F>());
    case Kind::I4E: return f(Class<Kind::I4E>());
    case Kind::I5: return f(Class<Kind::I5>());
    case Kind::I5M: return f(Class<Kind::I5M>());
    case Kind::I5K: return f(Class<Kind::I5K>());
    case Kind::I6S: return f(Class<Kind::I6S>());
    case Kind::I8: return f(Class<Kind::I8>());
    case Kind::BF16:
    case Kind::F16:
    case Kind::F32: return;
  }
}
