// AVX-512 with VNNI (Intel from Cascade Lake, AMD from Zen 4): 4-way 8-bit dot products, 16 rows a register.
// Compiled twice: with QWICK_PAIRS (Intel from Cooper Lake, AMD from Zen 4) bf16 pages are multiplied by pairs.
#include <immintrin.h>
#include <string.h>

#include "../cpu.h"
#include "../kernels.h"

#ifdef QWICK_PAIRS
#define QWICK_AVX512 avx512bf16
#else
#define QWICK_AVX512 avx512vnni
#endif

namespace qwick {
namespace QWICK_AVX512 {
namespace {
#include "../simd/avx512.h"

#include "../inl/prepare.inl"

#include "../inl/matmul_int.inl"

#include "../inl/matmul_float.inl"

#include "../inl/matmul_rounded.inl"

#include "../inl/elementwise.inl"

#include "../inl/attention.inl"

#include "../inl/measure.inl"
}  // namespace
}  // namespace QWICK_AVX512

#ifdef QWICK_PAIRS
extern const Kernels kAvx512Bf16 = {
    "avx512bf16", kAvx512VnniSet | kAvx512Bf16Set, true,
#else
extern const Kernels kAvx512Vnni = {
    "avx512vnni", kAvx512VnniSet, true,
#endif
    {},
    QWICK_AVX512::prepare, QWICK_AVX512::quantize, QWICK_AVX512::matmul, QWICK_AVX512::add_rms_norm, QWICK_AVX512::swiglu, QWICK_AVX512::rope_store,
    QWICK_AVX512::argmax, QWICK_AVX512::attention, QWICK_AVX512::attention_join, sizeof(QWICK_AVX512::Item), QWICK_AVX512::read, QWICK_AVX512::busy,
    kAnyRows, {}, QWICK_AVX512::rounded_bytes,
    QWICK_AVX512::matmul_rounded,
};

}  // namespace qwick
