// AVX-512 with VNNI (Intel from Cascade Lake, AMD from Zen 4): 4-way 8-bit dot products, 16 rows a register.
#include <immintrin.h>
#include <string.h>

#include "../cpu.h"
#include "../kernels.h"

namespace qwick {
namespace avx512vnni {
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
}  // namespace avx512vnni

extern const Kernels kAvx512Vnni = {
    "avx512vnni", kAvx512VnniSet, true,
    {kFormI8, kFormI8, kFormI8, kFormI8, kFormF32, kFormF32, kFormF32},
    avx512vnni::prepare, avx512vnni::quantize, avx512vnni::matmul, avx512vnni::add_rms_norm, avx512vnni::swiglu, avx512vnni::rope_store,
    avx512vnni::attention, avx512vnni::attention_join, sizeof(avx512vnni::Item), avx512vnni::read, avx512vnni::busy,
    kAnyRows, {kFormI8, kFormI8, kFormI8, kFormI8, kFormF32, kFormF32, kFormF32}, avx512vnni::rounded_bytes,
    avx512vnni::matmul_rounded,
};

}  // namespace qwick
