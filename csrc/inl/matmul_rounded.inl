// y = x W^T for the rows of prompts: integer weights are rounded once more, to 8 bits with one scale per output and
// kPanelGroups groups, in a panel that all rows use. Between two dot products of a group then lies one multiply-add
// (by the activations' scale) and not two or three: the units that multiply are what many rows wait for.
// Included inside an ISA's namespace, after matmul_float.inl; AVX-512 only.
//
// What it costs: weights move by half of max|w| / 127 at most, as much as one rounding to 8 bits moves activations
// (docs/decisions/0009). Rows of answers keep the exact weights.

constexpr int kPanelGroups = 28;  // 14 KB, of the first cache
constexpr int kPanels = 8;        // tiles side by side, so that results go to memory several lines at a time

// A panel [group][step 8][64] of quants + 128, then scales [16] and sums [m][16] of the groups before it.
static size_t rounded_panel_bytes(int m) {
  return kPanelGroups * 8 * 64 + kTile * sizeof(float) + static_cast<size_t>(m) * kTile * sizeof(float);
}
static size_t rounded_bytes(int m, int) { return kPanels * rounded_panel_bytes(m); }

// Byte i of every lane.
template <int i>
QWICK_INLINE I32 byte_of(U8 v) {
  if constexpr (i == 3) return _mm512_srli_epi32(v, 24);
  return _mm512_and_si512(i ? _mm512_srli_epi32(v, 8 * i) : v, _mm512_set1_epi32(255));
}

// The largest of |scale * q + shift| over the quants of some steps, per output.
QWICK_INLINE F32 largest_of(const U8* op, int steps, F32 scale, F32 shift) {
  U8 low = op[0], high = op[0];
  for (int t = 1; t < steps; ++t) low = _mm512_min_epu8(low, op[t]), high = _mm512_max_epu8(high, op[t]);
  low = _mm512_min_epu8(low, _mm512_rol_epi32(low, 16));
  high = _mm512_max_epu8(high, _mm512_rol_epi32(high, 16));
  const U8 least = _mm512_min_epu8(low, _mm512_rol_epi32(low, 8)), most = _mm512_max_epu8(high, _mm512_rol_epi32(high, 8));
  return max(abs(fma(to_float(byte_of<0>(least)), scale, shift)), abs(fma(to_float(byte_of<0>(most)), scale, shift)));
}

// scale * q + shift, rounded: a step of a panel.
QWICK_INLINE U8 rounded_step(U8 op, F32 scale, F32 shift) {
  const I32 a = round_to_int(fma(to_float(byte_of<0>(op)), scale, shift));
  const I32 b = round_to_int(fma(to_float(byte_of<1>(op)), scale, shift));
  const I32 c = round_to_int(fma(to_float(byte_of<2>(op)), scale, shift));
  const I32 d = round_to_int(fma(to_float(byte_of<3>(op)), scale, shift));
  const __m512i low = _mm512_or_si512(a, _mm512_slli_epi32(b, 8));
  return _mm512_or_si512(low, _mm512_or_si512(_mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24)));
}

// What is added to scale * q: the zero point's share, or the stored minimum.
template <Kind kind>
QWICK_INLINE F32 shift_of(const Scales& s, int half) {
  if constexpr (has_minimum(kind)) return sub(set1(0.0f), s.offset[half]);
  return mul(s.scale[half], set1(-static_cast<float>(zero_point(kind))));
}

template <Kind kind>
static void fill_panel(const Segment& w, int t, int g0, int g1, uint8_t* panel, float* scales) {
  constexpr int steps = 8 / halves(kind);
  const Operands<kind> operands(w, t);
  F32 top = set1(0.0f), bad = set1(0.0f);
  for (int g = g0; g < g1; ++g) {
    const Group<kind> group = operands.group(g);
    operands.ask_ahead(g, true);
    for (int h = 0; h < halves(kind); ++h) {
      const F32 most = largest_of(group.op + h * steps, steps, group.s.scale[h], shift_of<kind>(group.s, h));
      top = max(top, most);
      bad = fma(most, set1(0.0f), bad);  // a maximum forgets NaN, and infinity has no quants: both must reach the result
    }
  }
  store(scales, add(mul(top, set1(1.0f / 127.0f)), bad));
  const __mmask16 some = _mm512_cmp_ps_mask(top, set1(0.0f), _CMP_GT_OQ);
  const F32 inverse = _mm512_maskz_div_ps(some, set1(127.0f), top);
  for (int g = g0; g < g1; ++g) {
    const Group<kind> group = operands.group(g);
    for (int h = 0; h < halves(kind); ++h) {
      const F32 shift = fma(shift_of<kind>(group.s, h), inverse, set1(128.0f)), by = mul(group.s.scale[h], inverse);
      for (int i = h * steps; i < (h + 1) * steps; ++i, panel += 64) store_bytes(panel, rounded_step(group.op[i], by, shift));
    }
  }
}

struct Panel {
  const Segment* w;
  const Rows* rows;
  const Output* out;
  int t, g0, g1;  // its tile, and which groups of it
  const uint8_t* quants;
  const float* scales;
  float* sums;
};

// B blocks of R rows from row `first` on.
template <int R, int B>
static void panel_rows(const Panel& p, int first) {
  const uint8_t *quants = p.quants, *x = p.rows->group(first, p.g0, R);
  const size_t block = static_cast<size_t>(R) * p.rows->groups() * kRowGroupBytes;
  F32 sum[B][R];
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) sum[b][r] = set1(0.0f);
  for (int g = p.g0; g < p.g1; ++g, quants += 8 * 64, x += R * kRowGroupBytes) {
    U8 op[8];
    for (int t = 0; t < 8; ++t) op[t] = load_bytes(quants + 64 * t);
    // Four rows in step: a dot product waits for the one before it, and few wait at a time.
    constexpr int N = R < 4 ? R : 4;
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
      for (int r = 0; r < R; r += N) {
        const int8_t* q = reinterpret_cast<const int8_t*>(x + b * block);
        const float* floats = reinterpret_cast<const float*>(x + b * block + R * kGroup);
        const int32_t* starts = reinterpret_cast<const int32_t*>(floats + 2 * R);
        I32 acc[N];
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) acc[i] = set1(starts[r + i < R ? r + i : r]);
#pragma GCC unroll 8
        for (int t = 0; t < 8; ++t)
#pragma GCC unroll 4
          for (int i = 0; i < N; ++i) acc[i] = dot<true>(acc[i], op[t], q + 4 * (t * R + (r + i < R ? r + i : r)));
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
          if (r + i < R) sum[b][r + i] = fma(to_float(acc[i]), set1(floats[r + i]), sum[b][r + i]);
      }
  }
  const F32 scale = load(p.scales);
  const bool begins = p.g0 == 0, ends = p.g1 == p.rows->groups();
  const int column = p.t * kTile;
  float* sums = p.sums + static_cast<size_t>(first) * kTile;
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r, sums += kTile) {
      const F32 all = begins ? mul(sum[b][r], scale) : fma(sum[b][r], scale, load(sums));
      if (ends) {
        put(*p.out, first + b * R + r, p.w->first + column, p.w->n - column, all);
      } else {
        store(sums, all);
      }
    }
}

// The last rows, fewer than a whole block.
template <int R>
static void panel_rest(const Panel& p, int first) {
  if constexpr (R > 0) {
    if (p.rows->m - first == R) return panel_rows<R, 1>(p, first);
    panel_rest<R - 1>(p, first);
  }
}

template <Kind kind>
static void rounded_tiles(const Segment& w, int t0, int t1, const Rows& rows, const Output& out, void* scratch) {
  constexpr int R = kRowBlock;
  for (; t0 < t1; t0 += kPanels) {
    const int count = t0 + kPanels < t1 ? kPanels : t1 - t0;
    for (int g0 = 0; g0 < rows.groups(); g0 += kPanelGroups) {
      const int g1 = g0 + kPanelGroups < rows.groups() ? g0 + kPanelGroups : rows.groups();
      Panel panels[kPanels] = {};
      for (int i = 0; i < count; ++i) {
        uint8_t* quants = static_cast<uint8_t*>(scratch) + i * rounded_panel_bytes(rows.m);
        float* scales = reinterpret_cast<float*>(quants + kPanelGroups * 8 * 64);
        fill_panel<kind>(w, t0 + i, g0, g1, quants, scales);
        panels[i] = {&w, &rows, &out, t0 + i, g0, g1, quants, scales, scales + kTile};
      }
      int first = 0;
      for (; first + 2 * R <= rows.m; first += 2 * R)
        for (int i = 0; i < count; ++i) panel_rows<R, 2>(panels[i], first);
      for (; first + R <= rows.m; first += R)
        for (int i = 0; i < count; ++i) panel_rows<R, 1>(panels[i], first);
      for (int i = 0; i < count; ++i) panel_rest<R - 1>(panels[i], first);
    }
  }
}

static void matmul_rounded(const Segment& w, int t0, int t1, const Rows& x, const Output& out, void* scratch) {
  if (!is_integer(w.kind)) return matmul(w, t0, t1, x, out);
  for_class(w.kind, [&](auto c) { rounded_tiles<c.kind>(w, t0, t1, x, out, scratch); });
}
