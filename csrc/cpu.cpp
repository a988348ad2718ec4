#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace qwick {
namespace {

#if defined(__x86_64__)
uint64_t xgetbv0() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

// Linux hands out the 8 KB of tile state only to a process that asks (Documentation/arch/x86/xstate.rst).
bool request_tile_data() {
  constexpr long kArchReqXcompPerm = 0x1023, kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
}

unsigned detect() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !fma || !f16c) return 0;
  const uint64_t xcr0 = xgetbv0();
  const bool ymm = (xcr0 & 6) == 6, zmm = (xcr0 & 0xe6) == 0xe6, tiles = (xcr0 & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  unsigned found = 0;
  if (ymm && (b >> 5 & 1)) found |= kAvx2Set;
  const unsigned b512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if (zmm && (b & b512) == b512 && (c >> 11 & 1)) found |= kAvx512VnniSet;
  const bool amx_bf16 = d >> 22 & 1, amx_tile = d >> 24 & 1;
  if ((found & kAvx512VnniSet) && tiles && amx_bf16 && amx_tile && request_tile_data()) found |= kAmxSet;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return found;
  if ((found & kAvx2Set) && (a >> 4 & 1)) found |= kAvxVnniSet;
  if ((found & kAvx512VnniSet) && (a >> 5 & 1)) found |= kAvx512Bf16Set;
  return found;
}
#elif defined(__aarch64__)
// Bits of Linux's arch/arm64/include/uapi/asm/hwcap.h; by number, because older headers lack the newer ones. The kernel
// names only what all of its cores have.
unsigned detect() {
  constexpr unsigned long kAsimd = 1ul << 1, kAsimdDp = 1ul << 20, kI8mm = 1ul << 13, kBf16 = 1ul << 14;
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  unsigned found = 0;
  if (first & kAsimd) found |= kNeonSet;
  if (first & kAsimdDp) found |= kDotprodSet;
  if ((second & kI8mm) && (second & kBf16)) found |= kI8mmSet;
  return found;
}
#else
unsigned detect() { return 0; }
#endif

}  // namespace

unsigned cpu_features() {
  static const unsigned features = detect();
  return features;
}

std::string missing_features(unsigned needs) {
  const unsigned gone = needs & ~cpu_features();
  constexpr struct {
    unsigned bit;
    const char* name;
  } kNames[] = {{kAvx2Set, "AVX2 (with FMA, F16C)"},
                {kAvxVnniSet, "AVX-VNNI"},
                {kAvx512VnniSet, "AVX-512 (F, DQ, BW, VL, VNNI)"},
                {kAvx512Bf16Set, "AVX-512 BF16"},
                {kAmxSet, "AMX (TILE, BF16)"},
                {kNeonSet, "NEON"},
                {kDotprodSet, "DOTPROD"},
                {kI8mmSet, "I8MM with BF16"}};
  std::string text;
  for (const auto& feature : kNames)
    if (gone & feature.bit) text += (text.empty() ? "" : ", ") + std::string(feature.name);
  return text;
}

}  // namespace qwick
