// y = x W^T for packed integer weights and 8-bit activations: exact integer dot products per group of 32 (or
// 16), scaled and summed in float32. Included inside an ISA's namespace.
//
// With w = s * (q - z) and x = a * p per group, sum w x = s * a * (sum q p - z * sum p): the zero point costs
// only the integer that the accumulator starts from. Where a minimum is stored (I4), w = s * q - o, and the
// second term is one more multiply-add with o.

template <Kind kind>
constexpr bool kWide = kind == Kind::I8;  // quants up to 255; the others stay below 64

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

// ---- few rows: weights decoded in registers, each byte read once -----------------------------------------

template <Kind kind, int M>
static void small_tile(const Segment& w, int t, const Rows& x, const Output& out) {
  const uint8_t *quants = w.tile(t), *scales = w.scales(t), *super = scales + w.k / kGroup * 32;
  F32 sum[M];
  for (int r = 0; r < M; ++r) sum[r] = set1(0.0f);
  for (int g = 0; g < w.k / kGroup; ++g, quants += quant_bytes(kind)) {
    const auto planes = Planes<kind>::open(quants);
    const U8 op[8] = {planes.template step<0>(), planes.template step<1>(), planes.template step<2>(),
                      planes.template step<3>(), planes.template step<4>(), planes.template step<5>(),
                      planes.template step<6>(), planes.template step<7>()};
    const Scales s = group_scales<kind>(scales, super, g);
    for (int r = 0; r < M; ++r) {
      const int8_t* q = x.q + static_cast<size_t>(r) * x.k + g * kGroup;
      const int32_t* sums = x.sums + static_cast<size_t>(r) * (x.k / 16) + 2 * g;
      const float a = x.scale[static_cast<size_t>(r) * (x.k / 32) + g];
      I32 low = set1(-zero_point(kind) * sums[0]), high = set1(-zero_point(kind) * sums[1]);
      for (int i = 0; i < 4; ++i) low = dot<kWide<kind>>(low, op[i], q + 4 * i);
      for (int i = 4; i < 8; ++i) high = dot<kWide<kind>>(high, op[i], q + 4 * i);
      if constexpr (kind == Kind::I6) {
        sum[r] = fma(mul(to_float(low), s.scale[0]), set1(a), sum[r]);
        sum[r] = fma(mul(to_float(high), s.scale[1]), set1(a), sum[r]);
      } else {
        sum[r] = fma(mul(to_float(add(low, high)), s.scale[0]), set1(a), sum[r]);
      }
      if constexpr (kind == Kind::I4)
        sum[r] = fma(s.offset, set1(-a * static_cast<float>(sums[0] + sums[1])), sum[r]);
    }
  }
  const int column = t * kTile, n = w.n - column;
  for (int r = 0; r < M; ++r) put(out, r, w.first + column, n, sum[r]);
}

template <Kind kind>
static void small_int(const Segment& w, int t0, int t1, const Rows& x, const Output& out) {
  for (int t = t0; t < t1; ++t) {
    if (x.m == 1) small_tile<kind, 1>(w, t, x, out);
    if (x.m == 2) small_tile<kind, 2>(w, t, x, out);
    if (x.m == 3) small_tile<kind, 3>(w, t, x, out);
    if (x.m == 4) small_tile<kind, 4>(w, t, x, out);
  }
}

// ---- many rows: two tiles decoded once into a panel, then used for all rows -------------------------------
// Panel: quants [group][step 8][tile 2][64] bytes, then scales [group][half 1 or 2][tile 2][16] floats, then
// (I4) offsets [group][tile 2][16].

constexpr int kPanelTiles = 2;

struct IntPanel {
  uint8_t* quants;
  float *scales, *offsets;
};
template <Kind kind>
QWICK_INLINE IntPanel int_panel(void* scratch, int k) {
  const size_t groups = k / kGroup;
  uint8_t* q = static_cast<uint8_t*>(scratch);
  float* s = reinterpret_cast<float*>(q + groups * 8 * kPanelTiles * 64);
  return {q, s, s + groups * kPanelTiles * 16 * (kind == Kind::I6 ? 2 : 1)};
}
static size_t int_panel_bytes(int k) {
  return static_cast<size_t>(k / kGroup) * kPanelTiles * (8 * 64 + 2 * 16 * sizeof(float));
}

template <Kind kind>
static void decode_panel(const Segment& w, int t0, int tiles, const IntPanel& panel) {
  constexpr int halves = kind == Kind::I6 ? 2 : 1;
  for (int j = 0; j < kPanelTiles; ++j) {
    const int t = t0 + (j < tiles ? j : 0);  // a missing second tile repeats the first; its sums are dropped
    const uint8_t *quants = w.tile(t), *scales = w.scales(t), *super = scales + w.k / kGroup * 32;
    for (int g = 0; g < w.k / kGroup; ++g) {
      const auto planes = Planes<kind>::open(quants + static_cast<size_t>(g) * quant_bytes(kind));
      uint8_t* to = panel.quants + (static_cast<size_t>(g) * 8 * kPanelTiles + j) * 64;
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
        store(panel.scales + ((g * halves + h) * kPanelTiles + j) * 16, s.scale[h]);
      if (kind == Kind::I4) store(panel.offsets + (g * kPanelTiles + j) * 16, s.offset);
    }
  }
}

template <Kind kind, int M>
static void panel_rows(const Segment& w, int t0, int tiles, const Rows& x, int r0, const Output& out,
                       const IntPanel& panel) {
  constexpr int halves = kind == Kind::I6 ? 2 : 1, steps = 8 / halves;
  F32 sum[M][kPanelTiles];
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < kPanelTiles; ++j) sum[r][j] = set1(0.0f);
  const uint8_t* quants = panel.quants;
  const float* scales = panel.scales;
  const int8_t* q = x.q + static_cast<size_t>(r0) * x.k;
  const float* a = x.scale + static_cast<size_t>(r0) * (x.k / 32);
  const int32_t* sums = x.sums + static_cast<size_t>(r0) * (x.k / 16);
  const size_t q_row = x.k, a_row = x.k / 32, sums_row = x.k / 16;
  for (int g = 0; g < x.k / kGroup; ++g) {
    for (int h = 0; h < halves; ++h, scales += kPanelTiles * 16) {
      I32 acc[M][kPanelTiles];
      for (int r = 0; r < M; ++r) {
        const int32_t* s = sums + r * sums_row + 2 * g;
        const I32 start = set1(-zero_point(kind) * (halves == 2 ? s[h] : s[0] + s[1]));
        for (int j = 0; j < kPanelTiles; ++j) acc[r][j] = start;
      }
#pragma GCC unroll 8
      for (int t = 0; t < steps; ++t, quants += kPanelTiles * 64) {
        const U8 w0 = load_bytes(quants), w1 = load_bytes(quants + 64);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
          const int8_t* at = q + r * q_row + g * kGroup + (h * steps + t) * 4;
          acc[r][0] = dot<kWide<kind>>(acc[r][0], w0, at);
          acc[r][1] = dot<kWide<kind>>(acc[r][1], w1, at);
        }
      }
      const F32 s0 = load(scales), s1 = load(scales + 16);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const F32 scale = set1(a[r * a_row + g]);
        sum[r][0] = fma(mul(to_float(acc[r][0]), s0), scale, sum[r][0]);
        sum[r][1] = fma(mul(to_float(acc[r][1]), s1), scale, sum[r][1]);
      }
    }
    if constexpr (kind == Kind::I4) {
      const F32 o0 = load(panel.offsets + g * kPanelTiles * 16);
      const F32 o1 = load(panel.offsets + g * kPanelTiles * 16 + 16);
      for (int r = 0; r < M; ++r) {
        const int32_t* s = sums + r * sums_row + 2 * g;
        const F32 shift = set1(-a[r * a_row + g] * static_cast<float>(s[0] + s[1]));
        sum[r][0] = fma(o0, shift, sum[r][0]);
        sum[r][1] = fma(o1, shift, sum[r][1]);
      }
    }
  }
  for (int j = 0; j < tiles; ++j) {
    const int column = (t0 + j) * kTile;
    for (int r = 0; r < M; ++r) put(out, r0 + r, w.first + column, w.n - column, sum[r][j]);
  }
}

// The last rows, fewer than a whole block: as many as M at once.
template <Kind kind, int M>
static void panel_rest(const Segment& w, int t, int tiles, const Rows& x, int r, const Output& out,
                       const IntPanel& panel) {
  if constexpr (M > 0) {
    if (x.m - r == M) return panel_rows<kind, M>(w, t, tiles, x, r, out, panel);
    panel_rest<kind, M - 1>(w, t, tiles, x, r, out, panel);
  }
}

template <Kind kind>
static void panel_int(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch) {
  constexpr int M = kPanelRows;
  const IntPanel panel = int_panel<kind>(scratch, w.k);
  for (int t = t0; t < t1; t += kPanelTiles) {
    const int tiles = t1 - t < kPanelTiles ? t1 - t : kPanelTiles;
    decode_panel<kind>(w, t, tiles, panel);
    int r = 0;
    for (; r + M <= x.m; r += M) panel_rows<kind, M>(w, t, tiles, x, r, out, panel);
    panel_rest<kind, M - 1>(w, t, tiles, x, r, out, panel);
  }
}
