// What the machine allows: reading memory, and the arithmetic of the matrix kernels. Included inside an ISA's
// namespace.

static uint64_t read(const uint8_t* p, size_t bytes) {
  U8 a = load_bytes(p), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    // The hardware's own prefetching stops at every 4 KB.
    for (int line = 0; line < 256; line += 64) __builtin_prefetch(p + i + 4096 + line, 0, 2);
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

// The dot product at its best: on registers alone. Returns operations (a multiply-add is two).
__attribute__((unused)) static double busy(int64_t rounds) {
  alignas(64) uint8_t bytes[128];
  int8_t x[24];
  for (int i = 0; i < 128; ++i) bytes[i] = static_cast<uint8_t>((i * 37 + 11) % 64);
  for (int i = 0; i < 24; ++i) x[i] = static_cast<int8_t>(i * 5 % 7 - 3);
  constexpr int kSums = kPeakSums;
  constexpr int64_t kPart = 1 << 15;  // 2^15 sums of four products up to 63 * 3 stay far within 32 bits
  int64_t sink = 0;
  for (int64_t n = 0; n < rounds; n += kPart) {
    __asm__ volatile("" ::"r"(x), "r"(bytes) : "memory");  // the compiler may not carry sums over
    const U8 w0 = load_bytes(bytes), w1 = load_bytes(bytes + 64);
    I32 acc[kSums];
    for (int i = 0; i < kSums; ++i) acc[i] = set1(i);
    const int64_t end = rounds - n < kPart ? rounds - n : kPart;
    for (int64_t r = 0; r < end; ++r) {
#pragma GCC unroll 6
      for (int i = 0; i < kSums / 2; ++i) {
        acc[2 * i] = dot<false>(acc[2 * i], w0, x + 4 * i);
        acc[2 * i + 1] = dot<false>(acc[2 * i + 1], w1, x + 4 * i);
      }
    }
    for (int i = 0; i < kSums; ++i) sink += reduce_add(acc[i]);
  }
  volatile int64_t result = sink;
  (void)result;
  return static_cast<double>(rounds) * kSums * 128;
}
