// y = x W^T for packed integer weights and 8-bit activations: exact integer dot products per group of 32 (or
// 16), scaled and summed in float32. Included inside an ISA's namespace.
//
// With w = s * (q - z) and x = a * p per group, sum w x = s * a * (sum q p - z * sum p): the zero point costs
// only the integer that the accumulator starts from. Where a minimum is stored (I4), w = s * q - o, and the
// second term is one more multiply-add with o.

// The 8 operands of a group of one tile, from its planes.
template <Kind kind>
struct Planes;

template <>
struct Planes<Kind::I8> {
  const uint8_t* p;
  QWICK_INLINE Planes open(const uint8_t* p) { return {p}; }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return load_bytes(p + 64 * t); }
};
template <>
struct Planes<Kind::I4> {
  U8 v[4];
  QWICK_INLINE Planes open(const uint8_t* p) {
    return {{load_bytes(p), load_bytes(p + 64), load_bytes(p + 128), load_bytes(p + 192)}};
  }
  template <int t>
  __attribute__((always_inline)) U8 step() const {
    return t % 2 ? high_nibbles(v[t / 2]) : low_nibbles(v[t / 2]);
  }
};
template <>
struct Planes<Kind::I5> {
  Planes<Kind::I4> low;
  U8 high;
  QWICK_INLINE Planes open(const uint8_t* p) {
    return {Planes<Kind::I4>::open(p), load_bytes(p + 256)};
  }
  template <int t>
  __attribute__((always_inline)) U8 step() const { return with_bit<t>(low.template step<t>(), high); }
};
template <>
struct Planes<Kind::I6> {
  Planes<Kind::I4> low;
  U8 high[2];
  QWICK_INLINE Planes open(const uint8_t* p) {
    return {Planes<Kind::I4>::open(p), {load_bytes(p + 256), load_bytes(p + 320)}};
  }
  template <int t>
  __attribute__((always_inline)) U8 step() const {
    return with_bits<t % 4>(low.template step<t>(), high[t / 4]);
  }
};

// The float scales of a group: [0] for k 0..15, [1] for k 16..31 (I6 only; else one for all); offset: I4 only.
struct Scales {
  F32 scale[2], offset;
};
template <Kind kind>
QWICK_INLINE Scales group_scales(const uint8_t* scales, const uint8_t* super, int g) {
  const uint8_t* s = scales + g * 32;
  if constexpr (kind == Kind::I4) {
    const uint16_t* d = reinterpret_cast<const uint16_t*>(super + g / 8 * 64);
    return {{mul(load_f16(d), load_u8(s)), set1(0.0f)}, mul(load_f16(d + 16), load_u8(s + 16))};
  } else if constexpr (kind == Kind::I6) {
    const F32 d = load_f16(reinterpret_cast<const uint16_t*>(super + g / 8 * 32));
    const int8_t* i = reinterpret_cast<const int8_t*>(s);
    return {{mul(d, load_i8(i)), mul(d, load_i8(i + 16))}, set1(0.0f)};
  } else {
    return {{load_f16(reinterpret_cast<const uint16_t*>(s)), set1(0.0f)}, set1(0.0f)};
  }
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

// Where the sums of group `g` start, for R rows side by side; `half` has a start of its own only where the scale is per
// 16 (I6).
template <Kind kind, int R>
QWICK_INLINE const int32_t* starts_of(const Rows& x, int first, int g, int half) {
  const size_t groups = static_cast<size_t>(first) * x.groups();
  if constexpr (kind == Kind::I6) return x.start[1] + 2 * groups + (2 * g + half) * R;
  return x.start[kind == Kind::I8 ? 2 : 0] + groups + g * R;
}
template <Kind kind>
QWICK_INLINE I32 start(const int32_t* p) {
  if constexpr (zero_point(kind) == 0) return set1(0);
  return set1(*p);
}

// Both ways below add up in the same order, so a row's result does not depend on how many rows there are:
// per block of kBlock, part = sum over its groups of scale * (integer sum) [- minimum * (sum of q)]; then
// sum += part * (the block's activation scale).

// ---- few rows: weights decoded in registers, each byte read once -----------------------------------------

constexpr int kAhead = 4096;  // bytes of weights asked for before they are needed

// R: the rows of the block that begins at row `first`.
template <Kind kind, int R>
static void small_tile(const Segment& w, int t, const Rows& x, int first, const Output& out) {
  const uint8_t *quants = w.tile(t), *scales = w.scales(t), *super = scales + w.k / kGroup * 32;
  const int groups = w.k / kGroup;
  const int8_t* q = x.q + static_cast<size_t>(first) * x.k;
  const float* a = x.scale + static_cast<size_t>(first) * x.scales();
  const float* minus = x.minus + static_cast<size_t>(first) * groups;
  F32 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = set1(0.0f);
  for (int g = 0; g < groups; a += R) {
    F32 part[R];
    for (int r = 0; r < R; ++r) part[r] = set1(0.0f);
    const int end = g + kBlock / kGroup < groups ? g + kBlock / kGroup : groups;
    for (; g < end; ++g, quants += quant_bytes(kind), q += kGroup * R, minus += R) {
      const auto planes = Planes<kind>::open(quants);
      const U8 op[8] = {planes.template step<0>(), planes.template step<1>(), planes.template step<2>(),
                        planes.template step<3>(), planes.template step<4>(), planes.template step<5>(),
                        planes.template step<6>(), planes.template step<7>()};
      // Into the second cache: the hardware's own prefetching stops at every 4 KB.
      for (int i = 0; i < quant_bytes(kind); i += 64) __builtin_prefetch(quants + kAhead + i, 0, 2);
      const Scales s = group_scales<kind>(scales, super, g);
      const int32_t *s0 = starts_of<kind, R>(x, first, g, 0), *s1 = starts_of<kind, R>(x, first, g, 1);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const I32 low = dot4<kind>(start<kind>(s0 + r), op, q + 4 * r, 4 * R);
        if constexpr (kind == Kind::I6) {
          const I32 high = dot4<kind>(start<kind>(s1 + r), op + 4, q + 16 * R + 4 * r, 4 * R);
          part[r] = fma(to_float(low), s.scale[0], part[r]);
          part[r] = fma(to_float(high), s.scale[1], part[r]);
        } else {
          const I32 high = dot4<kind>(set1(0), op + 4, q + 16 * R + 4 * r, 4 * R);
          part[r] = fma(to_float(add(low, high)), s.scale[0], part[r]);
        }
        if constexpr (kind == Kind::I4) part[r] = fma(s.offset, set1(minus[r]), part[r]);
      }
    }
    for (int r = 0; r < R; ++r) sum[r] = fma(part[r], set1(a[r]), sum[r]);
  }
  const int column = t * kTile, n = w.n - column;
  for (int r = 0; r < R; ++r) put(out, first + r, w.first + column, n, sum[r]);
}

template <Kind kind, int R>
static void small_rest(const Segment& w, int t, const Rows& x, int first, const Output& out) {
  if constexpr (R > 0) {
    if (x.m - first == R) return small_tile<kind, R>(w, t, x, first, out);
    small_rest<kind, R - 1>(w, t, x, first, out);
  }
}

template <Kind kind>
static void small_int(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  for (int t = t0; t < t1; ++t) {  // a tile stays in the first cache for all rows
    int first = 0;
    for (; first + kRowBlock <= x.m; first += kRowBlock) small_tile<kind, kRowBlock>(w, t, x, first, out);
    small_rest<kind, kRowBlock - 1>(w, t, x, first, out);
  }
}

// ---- many rows: two tiles decoded once into a panel, then used for all rows -------------------------------
// The panel holds kPanelGroups groups, so that it stays in the first cache; sums wait beside it.
// Panel: quants [group][step 8][tile 2][64] bytes, then scales [group][half 1 or 2][tile 2][16] floats, then
// (I4) offsets [group][tile 2][16].

constexpr int kPanelTiles = 2;
constexpr int kPanelGroups = 28;  // 33 KB; whole blocks
static_assert(kPanelGroups % (kBlock / kGroup) == 0);

struct IntPanel {
  uint8_t* quants;
  float *scales, *offsets;
  float* sums;  // [m][32]
};
QWICK_INLINE IntPanel int_panel(void* scratch) {
  uint8_t* q = static_cast<uint8_t*>(scratch);
  float* s = reinterpret_cast<float*>(q + kPanelGroups * 8 * kPanelTiles * 64);
  float* o = s + kPanelGroups * kPanelTiles * 16 * 2;
  return {q, s, o, o + kPanelGroups * kPanelTiles * 16};
}
static size_t int_panel_bytes(int m, int) {
  return static_cast<size_t>(kPanelGroups) * kPanelTiles * (8 * 64 + 3 * 16 * sizeof(float)) +
         static_cast<size_t>(m) * kPanelTiles * 16 * sizeof(float);
}

template <Kind kind>
static void decode_panel(const Segment& w, int t0, int tiles, int g0, int g1, const IntPanel& panel) {
  constexpr int halves = kind == Kind::I6 ? 2 : 1;
  for (int j = 0; j < kPanelTiles; ++j) {
    const int t = t0 + (j < tiles ? j : 0);  // a missing second tile repeats the first; its sums are dropped
    const uint8_t *quants = w.tile(t), *scales = w.scales(t), *super = scales + w.k / kGroup * 32;
    for (int g = g0; g < g1; ++g) {
      const auto planes = Planes<kind>::open(quants + static_cast<size_t>(g) * quant_bytes(kind));
      uint8_t* to = panel.quants + (static_cast<size_t>(g - g0) * 8 * kPanelTiles + j) * 64;
      store_bytes(to + 0 * kPanelTiles * 64, planes.template step<0>());
      store_bytes(to + 1 * kPanelTiles * 64, planes.template step<1>());
      store_bytes(to + 2 * kPanelTiles * 64, planes.template step<2>());
      store_bytes(to + 3 * kPanelTiles * 64, planes.template step<3>());
      store_bytes(to + 4 * kPanelTiles * 64, planes.template step<4>());
      store_bytes(to + 5 * kPanelTiles * 64, planes.template step<5>());
      store_bytes(to + 6 * kPanelTiles * 64, planes.template step<6>());
      store_bytes(to + 7 * kPanelTiles * 64, planes.template step<7>());
      const Scales s = group_scales<kind>(scales, super, g);
      for (int h = 0; h < halves; ++h)
        store(panel.scales + (((g - g0) * halves + h) * kPanelTiles + j) * 16, s.scale[h]);
      if (kind == Kind::I4) store(panel.offsets + ((g - g0) * kPanelTiles + j) * 16, s.offset);
    }
  }
}

// Sums over the groups g0..g1-1, added to those over the groups before, of the rows r0..r0 + M - 1 of a block of R.
template <Kind kind, int R, int M>
static void panel_rows(const Rows& x, int first, int r0, int g0, int g1, const IntPanel& panel) {
  constexpr int halves = kind == Kind::I6 ? 2 : 1, steps = 8 / halves;
  float* sums = panel.sums + static_cast<size_t>(first + r0) * kPanelTiles * 16;
  F32 sum[M][kPanelTiles];
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < kPanelTiles; ++j) sum[r][j] = g0 ? load(sums + 32 * r + 16 * j) : set1(0.0f);
  const uint8_t* quants = panel.quants;
  const float *scales = panel.scales, *offsets = panel.offsets;
  const int8_t* q = x.q + static_cast<size_t>(first) * x.k + g0 * kGroup * R + 4 * r0;
  const float* a = x.scale + static_cast<size_t>(first) * x.scales() + g0 / (kBlock / kGroup) * R + r0;
  const float* minus = x.minus + static_cast<size_t>(first) * x.groups() + g0 * R + r0;
  const int32_t* begin = starts_of<kind, R>(x, first, g0, 0) + r0;
  for (int g = g0; g < g1; a += R) {
    F32 part[M][kPanelTiles];
    for (int r = 0; r < M; ++r) part[r][0] = part[r][1] = set1(0.0f);
    const int end = g + kBlock / kGroup < g1 ? g + kBlock / kGroup : g1;
    for (; g < end; ++g, minus += R) {
      for (int h = 0; h < halves; ++h, scales += kPanelTiles * 16, begin += R) {
        I32 acc[M][kPanelTiles];
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) acc[r][0] = acc[r][1] = start<kind>(begin + r);
#pragma GCC unroll 8
        for (int t = 0; t < steps; t += kStepsAtOnce, quants += kStepsAtOnce * kPanelTiles * 64, q += 4 * kStepsAtOnce * R) {
#pragma GCC unroll 8
          for (int r = 0; r < M; ++r) {
            acc[r][0] = dot_steps<kind>(acc[r][0], quants, kPanelTiles * 64, q + 4 * r, 4 * R);
            acc[r][1] = dot_steps<kind>(acc[r][1], quants + 64, kPanelTiles * 64, q + 4 * r, 4 * R);
          }
        }
        const F32 s0 = load(scales), s1 = load(scales + 16);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
          part[r][0] = fma(to_float(acc[r][0]), s0, part[r][0]);
          part[r][1] = fma(to_float(acc[r][1]), s1, part[r][1]);
        }
      }
      if constexpr (kind == Kind::I4) {
        const F32 o0 = load(offsets), o1 = load(offsets + 16);
        offsets += kPanelTiles * 16;
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
          part[r][0] = fma(o0, set1(minus[r]), part[r][0]);
          part[r][1] = fma(o1, set1(minus[r]), part[r][1]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      sum[r][0] = fma(part[r][0], set1(a[r]), sum[r][0]);
      sum[r][1] = fma(part[r][1], set1(a[r]), sum[r][1]);
    }
  }
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < kPanelTiles; ++j) store(sums + 32 * r + 16 * j, sum[r][j]);
}

// All R rows of a block, kPanelRows at a time.
template <Kind kind, int R, int r0 = 0>
static void panel_block(const Rows& x, int first, int g0, int g1, const IntPanel& panel) {
  constexpr int M = R - r0 < kPanelRows ? R - r0 : kPanelRows;
  panel_rows<kind, R, M>(x, first, r0, g0, g1, panel);
  if constexpr (r0 + M < R) panel_block<kind, R, r0 + M>(x, first, g0, g1, panel);
}

// The last rows, fewer than a whole block.
template <Kind kind, int R>
static void panel_rest(const Rows& x, int first, int g0, int g1, const IntPanel& panel) {
  if constexpr (R > 0) {
    if (x.m - first == R) return panel_block<kind, R>(x, first, g0, g1, panel);
    panel_rest<kind, R - 1>(x, first, g0, g1, panel);
  }
}

// Asks for the bytes from `at` up to `end` a part at a time, while something else is computed.
struct Prefetch {
  const uint8_t *at, *end;
  size_t part;
  void some() {
    const uint8_t* stop = static_cast<size_t>(end - at) < part ? end : at + part;
    for (; at < stop; at += 64) __builtin_prefetch(at);
  }
};

template <Kind kind>
static void panel_int(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch) {
  const IntPanel panel = int_panel(scratch);
  const int groups = w.k / kGroup;
  for (int t = t0; t < t1; t += kPanelTiles) {
    const int tiles = t1 - t < kPanelTiles ? t1 - t : kPanelTiles;
    const int after = t1 - t - tiles < kPanelTiles ? t1 - t - tiles : kPanelTiles;  // tiles of the next pair
    Prefetch next{w.tile(t + tiles), w.tile(t + tiles + after), 0};
    next.part = (next.end - next.at) / (static_cast<size_t>(x.m) * groups / (kRowBlock * kPanelGroups) + 1) + 64;
    for (int g0 = 0; g0 < groups; g0 += kPanelGroups) {
      const int g1 = g0 + kPanelGroups < groups ? g0 + kPanelGroups : groups;
      decode_panel<kind>(w, t, tiles, g0, g1, panel);
      int first = 0;
      for (; first + kRowBlock <= x.m; first += kRowBlock) {
        panel_block<kind, kRowBlock>(x, first, g0, g1, panel);
        next.some();
      }
      panel_rest<kind, kRowBlock - 1>(x, first, g0, g1, panel);
    }
    for (int r = 0; r < x.m; ++r)
      for (int j = 0; j < tiles; ++j) {
        const int column = (t + j) * kTile;
        put(out, r, w.first + column, w.n - column, load(panel.sums + 32 * r + 16 * j));
      }
  }
}
