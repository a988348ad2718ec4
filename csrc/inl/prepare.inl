// Rows of activations into the forms that the matrix kernels want. Included inside an ISA's namespace.

// Symmetric 8-bit with one scale per 32: q = round(x * (127 / max|x|)), ties to even.
static void quantize_row(const float* x, int k, int8_t* q, float* scale, int32_t* sums) {
  for (int g = 0; g < k / kGroup; ++g, x += kGroup, q += kGroup) {
    const F32 a = load(x), b = load(x + 16);
    // A maximum forgets NaN, which must reach the result.
    const float amax = unordered(a, b) ? __builtin_nanf("") : reduce_max(max(abs(a), abs(b)));
    const F32 inverse = set1(amax > 0 ? 127.0f / amax : 0.0f);
    const I32 qa = round_to_int(mul(a, inverse)), qb = round_to_int(mul(b, inverse));
    store_i8(q, qa);
    store_i8(q + 16, qb);
    scale[g] = amax / 127.0f;
    sums[2 * g] = reduce_add(qa);
    sums[2 * g + 1] = reduce_add(qb);
  }
}

static void bf16_row(const float* x, int k, int k_even, uint16_t* out) {
  int i = 0;
  for (; i + 16 <= k; i += 16) store_bf16(out + i, load(x + i));
  if (i < k) store_bf16(out + i, load_some(x + i, k - i)), i += 16;
  for (; i < k_even; ++i) out[i] = 0;
}

static void prepare(const Rows& rows, int r0, int r1, unsigned forms) {
  const size_t k = rows.k;
  for (int r = r0; r < r1; ++r) {
    const float* x = rows.x + r * k;
    if (forms & kFormI8)
      quantize_row(x, rows.k, rows.q + r * k, rows.scale + r * (k / 32), rows.sums + r * (k / 16));
    if (forms & kFormBF16)
      bf16_row(x, rows.k, rows.k_even, rows.bf16 + r * static_cast<size_t>(rows.k_even));
  }
}
