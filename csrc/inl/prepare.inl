// Rows of activations into the forms that the matrix kernels want. Included inside an ISA's namespace.

// Floats as 8-bit quants under one scale amax / 127, where amax is their largest magnitude, NaN if one of them is NaN.
// Nothing below kLeastRounded is told from 0, and where something is not finite the quants are 0 and the scale is not finite.
static F32 inverse_scale(float amax) { return set1(amax >= kLeastRounded ? 127.0f / amax : 0.0f); }
static I32 rounded(F32 v, F32 inverse, float amax) {
  return amax <= __FLT_MAX__ ? round_to_int(mul(v, inverse)) : set1(0);
}
static float largest(F32 u, F32 v) {  // a maximum forgets NaN, which must reach the result
  return unordered(u, v) ? __builtin_nanf("") : reduce_max(max(abs(u), abs(v)));
}

// Symmetric: quants are rounded to the nearest, ties to even. Row r of the R rows whose groups g0..g1-1 begin at `to`; x
// is the row's group g0.
static void quantize_row(const float* x, int r, int R, int g0, int g1, uint8_t* to) {
  for (int g = g0; g < g1; ++g, x += kGroup, to += R * kRowGroupBytes) {
    const F32 u = load(x), v = load(x + 16);
    const float amax = largest(u, v);
    const F32 inverse = inverse_scale(amax);
    const I32 a = rounded(u, inverse, amax), b = rounded(v, inverse, amax);
    int8_t bytes[kGroup];
    store_i8(bytes, a);
    store_i8(bytes + 16, b);
    for (int t = 0; t < kGroup / 4; ++t) memcpy(to + 4 * (t * R + r), bytes + 4 * t, 4);
    const int low = reduce_add(a), high = reduce_add(b), sum = low + high;
    float* floats = reinterpret_cast<float*>(to + R * kGroup) + r;
    int32_t* starts = reinterpret_cast<int32_t*>(floats);
    floats[0] = amax / 127.0f;
    starts[R] = -zero_point(Kind::I5) * sum;
    starts[2 * R] = -zero_point(Kind::I8) * sum;
    floats[3 * R] = static_cast<float>(-sum);
    starts[4 * R] = -zero_point(Kind::I6S) * low;
    starts[5 * R] = -zero_point(Kind::I6S) * high;
  }
}

// The groups g0..g1-1 of the rows r0..r1-1, of which x holds the first one's group g0; rows of x are ld floats apart.
static void quantize(const float* x, size_t ld, const Rows& rows, int r0, int r1, int g0, int g1) {
  for (int first = r0; first < r1; first += kRowBlock, x += kRowBlock * ld) {
    const int R = r1 - first < kRowBlock ? r1 - first : kRowBlock;
    const bool whole = kQuantizesBlocks && R == kRowBlock;
    for (int g = g0; g < g1;) {
      const int end = whole ? g + 1 : g1;
      const float* at = x + static_cast<size_t>(g - g0) * kGroup;
      uint8_t* to = rows.group(first, g, R);
      if (!whole || !quantize_block(at, ld, to))
        for (int r = 0; r < R; ++r) quantize_row(at + r * ld, r, R, g, end, to);
      g = end;
    }
  }
}

static void bf16_row(const float* x, int k, int k_even, uint16_t* out) {
  int i = 0;
  for (; i + 16 <= k; i += 16) store_bf16(out + i, load(x + i));
  if (i < k) store_bf16(out + i, load_some(x + i, k - i)), i += 16;
  for (; i < k_even; ++i) out[i] = 0;
}

static void prepare(const Rows& rows, int r0, int r1, unsigned forms) {
  const float* x = rows.x + static_cast<size_t>(r0) * rows.k;
  if (forms & kFormI8) quantize(x, rows.k, rows, r0, r1, 0, rows.groups());
  for (int r = r0; forms & kFormBF16 && r < r1; ++r, x += rows.k)
    bf16_row(x, rows.k, rows.k_even, rows.bf16 + r * static_cast<size_t>(rows.k_even));
}
