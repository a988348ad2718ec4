// AVX2 with FMA and F16C (Intel from Haswell, AMD from Zen), pairs of 256-bit registers. Compiled three times: with
// QWICK_AVXVNNI the 8-bit dot product is one instruction (Intel from Alder Lake, AMD from Zen 5); with
// QWICK_EMULATE_AVXVNNI too it is the same instruction in AVX-512's encoding, for tests.
#include <immintrin.h>
#include <string.h>

#include "../cpu.h"
#include "../kernels.h"

#if defined(QWICK_EMULATE_AVXVNNI)
#define QWICK_AVX avxvnni_emulated
#elif defined(QWICK_AVXVNNI)
#define QWICK_AVX avxvnni
#else
#define QWICK_AVX avx2
#endif

namespace qwick {
namespace QWICK_AVX {
namespace {
#include "../simd/avx2.h"

#include "../inl/prepare.inl"

#include "../inl/matmul_int.inl"

#include "../inl/matmul_float.inl"

#include "../inl/elementwise.inl"

#include "../inl/attention.inl"

#include "../inl/measure.inl"
}  // namespace
}  // namespace QWICK_AVX

#if defined(QWICK_EMULATE_AVXVNNI)
extern const Kernels kAvxVnniEmulated = {
    "avxvnni-emulated", kAvx512VnniSet, false,
#elif defined(QWICK_AVXVNNI)
extern const Kernels kAvxVnni = {
    "avxvnni", kAvx2Set | kAvxVnniSet, true,
#else
extern const Kernels kAvx2 = {
    "avx2", kAvx2Set, true,
#endif
    {},
    QWICK_AVX::prepare, QWICK_AVX::quantize, QWICK_AVX::matmul, QWICK_AVX::add_rms_norm, QWICK_AVX::swiglu, QWICK_AVX::rope_store,
    QWICK_AVX::argmax, QWICK_AVX::attention, QWICK_AVX::attention_join, sizeof(QWICK_AVX::Item), QWICK_AVX::read, QWICK_AVX::busy,
    kAnyRows, {}, nullptr, nullptr,
};

}  // namespace qwick
