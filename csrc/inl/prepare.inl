// Rows of activations into the forms that the matrix kernels want. Included inside an ISA's namespace.

// Symmetric: quants are rounded to the nearest, ties to even. Row r of the R rows whose groups g0..g1-1 begin at `to`; x
// is the row's group g0.
static void quantize_row(const float* x, int r, int R, int g0, int g1, uint8_t* to) {
  for (int g = g0; g < g1; ++g, x += kGroup, to += R * kRowGroupBytes) {
    const F32 u = load(x), v = load(x + 16);
    // A maximum forgets NaN, which must reach the result.
    const float amax = unordered(u, v) ? __builtin_nanf("") : reduce_max(max(abs(u), abs(v)));
    const F32 inverse = set1(amax > 0 ? 127.0f / amax : 0.0f);
    const I32 a = round_to_int(mul(u, inverse)), b = round_to_int(mul(v, inverse));
    int8_t quants[kGroup];
    store_i8(quants, a);
    store_i8(quants + 16, b);
    for (int t = 0; t < kGroup / 4; ++t) memcpy(to + 4 * (t * R + r), quants + 4 * t, 4);
    const int low = reduce_add(a), high = reduce_add(b), sum = low + high;
    float* floats = reinterpret_cast<float*>(to + R * kGroup) + r;
    int32_t* starts = reinterpret_cast<int32_t*>(floats);
    floats[0] = amax / 127.0f;
    starts[R] = -zero_point(Kind::I5) * sum;
    starts[2 * R] = -zero_point(Kind::I8) * sum;
    floats[3 * R] = static_cast<float>(-sum);
    starts[4 * R] = -zero_point(Kind::I6) * low;
    starts[5 * R] = -zero_point(Kind::I6) * high;
  }
}

// The R rows of the block that begins at row `first`.
static void quantize_rows(const Rows& rows, int first, int R) {
  const float* x = rows.x + static_cast<size_t>(first) * rows.k;
  const bool whole = kQuantizesBlocks && R == kRowBlock;
  for (int g = 0; g < rows.groups();) {
    const int end = whole ? g + 1 : rows.groups();
    uint8_t* to = rows.group(first, g, R);
    if (!whole || !quantize_block(x + g * kGroup, rows.k, to))
      for (int r = 0; r < R; ++r) quantize_row(x + static_cast<size_t>(r) * rows.k + g * kGroup, r, R, g, end, to);
    g = end;
  }
}

static void bf16_row(const float* x, int k, int k_even, uint16_t* out) {
  int i = 0;
  for (; i + 16 <= k; i += 16) store_bf16(out + i, load(x + i));
  if (i < k) store_bf16(out + i, load_some(x + i, k - i)), i += 16;
  for (; i < k_even; ++i) out[i] = 0;
}

static void prepare(const Rows& rows, int r0, int r1, unsigned forms) {
  for (int first = r0; first < r1; first += kRowBlock) {
    const int R = r1 - first < kRowBlock ? r1 - first : kRowBlock;
    if (forms & kFormI8) quantize_rows(rows, first, R);
    for (int r = 0; r < R; ++r) {
      const size_t row = first + r;
      if (forms & kFormBF16)
        bf16_row(rows.x + row * rows.k, rows.k, rows.k_even, rows.bf16 + row * static_cast<size_t>(rows.k_even));
    }
  }
}
