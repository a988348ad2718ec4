// What the machine allows: reading memory, and the arithmetic of the matrix kernels. Included inside an ISA's
// namespace.

static uint64_t read(const uint8_t* p, size_t bytes) {
  U8 a = load_bytes(p), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    a = bits_xor(a, load_bytes(p + i));
    b = bits_xor(b, load_bytes(p + i + 64));
    c = bits_xor(c, load_bytes(p + i + 128));
    d = bits_xor(d, load_bytes(p + i + 192));
  }
  uint8_t out[64];
  store_bytes(out, bits_xor(bits_xor(a, b), bits_xor(c, d)));
  uint64_t sum = 0;
  for (int i = 0; i < 64; ++i) sum += out[i];
  return sum;
}

// The matrix unit at its best: 8-bit products on registers alone. Returns operations (a multiply-add is two).
__attribute__((unused)) static double busy(int64_t rounds) {
  alignas(64) uint8_t bytes[128];
  int8_t x[24], minus_x[24];
  for (int i = 0; i < 128; ++i) bytes[i] = static_cast<uint8_t>((i * 37 + 11) % 64);
  for (int i = 0; i < 24; ++i) x[i] = static_cast<int8_t>(i * 29 % 120 - 60), minus_x[i] = -x[i];
  const U8 w0 = load_bytes(bytes), w1 = load_bytes(bytes + 64);
  I32 acc[12];
  for (int i = 0; i < 12; ++i) acc[i] = set1(i);
  for (int64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" ::"r"(x), "r"(minus_x) : "memory");  // else the compiler sees that the sum is 0
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {  // there and back, so that the sums stay within 32 bits
      const int8_t* at = i < 6 ? x + 4 * i : minus_x + 4 * (i - 6);
      acc[i % 6 * 2] = dot<false>(acc[i % 6 * 2], w0, at);
      acc[i % 6 * 2 + 1] = dot<false>(acc[i % 6 * 2 + 1], w1, at);
    }
  }
  I32 sum = acc[0];
  for (int i = 1; i < 12; ++i) sum = add(sum, acc[i]);
  volatile int sink = reduce_add(sum);
  (void)sink;
  return static_cast<double>(rounds) * 24 * 128;
}
