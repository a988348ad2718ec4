// Plain C++ for any CPU, written with vector extensions that the compiler lowers to what the base ABI has.
#include "../kernels.h"

#include <string.h>

namespace qwick {
namespace scalar {
namespace {
#include "../simd/portable.h"

#include "../inl/prepare.inl"

#include "../inl/matmul_int.inl"

#include "../inl/matmul_float.inl"

#include "../inl/elementwise.inl"

#include "../inl/attention.inl"

#include "../inl/measure.inl"
}  // namespace
}  // namespace scalar

extern const Kernels kScalar = {
    "scalar", 0, true,
    {},
    scalar::prepare, scalar::quantize, scalar::matmul, scalar::add_rms_norm, scalar::swiglu, scalar::rope_store,
    scalar::argmax, scalar::attention, scalar::attention_join, sizeof(scalar::Item), scalar::read, scalar::busy,
    kAnyRows, {}, nullptr, nullptr,
};

}  // namespace qwick
