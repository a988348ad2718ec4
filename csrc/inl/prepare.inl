// Rows of activations into the forms that the matrix kernels want. Included inside an ISA's namespace.

// Symmetric 8-bit with one scale per kBlock columns: q = round(x * (127 / max|x|)), ties to even. Row `r` of the R rows
// of a block that begins at row `first`.
static void quantize_row(const Rows& rows, size_t first, int r, int R) {
  const size_t groups = rows.groups();
  const float* x = rows.x + (first + r) * rows.k;
  int8_t* q = rows.q + first * rows.k + 4 * r;
  float *scale = rows.scale + first * rows.scales() + r, *minus = rows.minus + first * groups + r;
  int32_t *i5 = rows.start[0] + first * groups + r, *i6 = rows.start[1] + 2 * first * groups + r,
          *i8 = rows.start[2] + first * groups + r;
  for (int k0 = 0; k0 < rows.k; k0 += kBlock) {
    const int n = rows.k - k0 < kBlock ? rows.k - k0 : kBlock;
    F32 top = set1(0.0f);
    bool nan = false;
    for (int i = 0; i < n; i += kGroup) {
      const F32 a = load(x + i), b = load(x + i + 16);
      nan |= unordered(a, b);
      top = max(top, max(abs(a), abs(b)));
    }
    const float amax = nan ? __builtin_nanf("") : reduce_max(top);  // a maximum forgets NaN, which must reach the result
    const F32 inverse = set1(amax > 0 ? 127.0f / amax : 0.0f);
    *scale = amax / 127.0f;
    scale += R;
    for (int i = 0; i < n; i += kGroup, x += kGroup) {
      const I32 a = round_to_int(mul(load(x), inverse)), b = round_to_int(mul(load(x + 16), inverse));
      int8_t bytes[kGroup];
      store_i8(bytes, a);
      store_i8(bytes + 16, b);
      for (int t = 0; t < kGroup / 4; ++t, q += 4 * R) memcpy(q, bytes + 4 * t, 4);
      const int low = reduce_add(a), high = reduce_add(b);
      *minus = static_cast<float>(-(low + high));
      *i5 = -zero_point(Kind::I5) * (low + high);
      i6[0] = -zero_point(Kind::I6) * low;
      i6[R] = -zero_point(Kind::I6) * high;
      *i8 = -zero_point(Kind::I8) * (low + high);
      minus += R, i5 += R, i6 += 2 * R, i8 += R;
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
  for (int first = r0; first < r1; first += kRowBlock) {
    const int R = r1 - first < kRowBlock ? r1 - first : kRowBlock;
    for (int r = 0; r < R; ++r) {
      const size_t row = first + r;
      if (forms & kFormI8) quantize_row(rows, first, r, R);
      if (forms & kFormBF16)
        bf16_row(rows.x + row * rows.k, rows.k, rows.k_even, rows.bf16 + row * static_cast<size_t>(rows.k_even));
    }
  }
}
