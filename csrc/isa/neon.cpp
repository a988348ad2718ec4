// NEON on 64-bit ARM, four 128-bit registers. Compiled three times: plain (any such CPU), with QWICK_DOTPROD (Armv8.2
// with dot products: Cortex-A76, Neoverse N1, Apple M1 and later), and with QWICK_I8MM too, which stands for BF16 as
// well (Neoverse V1 and N2, Cortex-A710, Apple M2 and later: what has one of the two has both).
#include <arm_neon.h>
#include <string.h>

#include "../cpu.h"
#include "../kernels.h"

#if defined(QWICK_I8MM)
#define QWICK_NEON neoni8mm
#elif defined(QWICK_DOTPROD)
#define QWICK_NEON neondot
#else
#define QWICK_NEON neon
#endif

namespace qwick {
namespace QWICK_NEON {
namespace {
#include "../simd/neon.h"

#include "../simd/neon_dot.h"

#include "../inl/prepare.inl"

#include "../inl/matmul_int.inl"

#include "../inl/matmul_float.inl"

#include "../inl/elementwise.inl"

#include "../inl/attention.inl"

#include "../inl/measure.inl"
}  // namespace
}  // namespace QWICK_NEON

#if defined(QWICK_I8MM)
extern const Kernels kNeonI8mm = {
    "neoni8mm", kNeonSet | kDotprodSet | kI8mmSet, true,
#elif defined(QWICK_DOTPROD)
extern const Kernels kNeonDot = {
    "neondot", kNeonSet | kDotprodSet, true,
#else
extern const Kernels kNeon = {
    "neon", kNeonSet, true,
#endif
    {},
    QWICK_NEON::prepare, QWICK_NEON::quantize, QWICK_NEON::matmul, QWICK_NEON::add_rms_norm, QWICK_NEON::swiglu, QWICK_NEON::rope_store,
    QWICK_NEON::argmax, QWICK_NEON::attention, QWICK_NEON::attention_join, sizeof(QWICK_NEON::Item), QWICK_NEON::read, QWICK_NEON::busy,
    kAnyRows, {}, nullptr, nullptr,
};

}  // namespace qwick
