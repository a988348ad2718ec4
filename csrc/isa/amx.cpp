// AVX-512 VNNI for one row and few rows, AMX tiles in bf16 for many (Intel from Sapphire Rapids).
// Compiled twice: with QWICK_EMULATE_AMX the tile instructions are plain AVX-512 code, for tests.
#include <immintrin.h>
#include <string.h>

#include "../cpu.h"
#include "../kernels.h"

#ifdef QWICK_EMULATE_AMX
#define QWICK_AMX amx_emulated
#else
#define QWICK_AMX amx
#endif

namespace qwick {
namespace QWICK_AMX {
namespace {
#include "../simd/avx512.h"

#include "../simd/tiles.h"

#include "../inl/prepare.inl"

#include "../inl/matmul_int.inl"

#include "../inl/matmul_float.inl"

#include "../inl/matmul_tiles.inl"

#include "../inl/elementwise.inl"

#include "../inl/attention.inl"

#include "../inl/measure.inl"
}  // namespace
}  // namespace QWICK_AMX

#ifdef QWICK_EMULATE_AMX
extern const Kernels kAmxEmulated = {
    "amx-emulated", kAvx512VnniSet, false,
#else
extern const Kernels kAmx = {
    "amx", kAvx512VnniSet | kAvx512Bf16Set | kAmxSet, true,
#endif
    {},
    QWICK_AMX::prepare, QWICK_AMX::quantize, QWICK_AMX::matmul, QWICK_AMX::add_rms_norm, QWICK_AMX::swiglu, QWICK_AMX::rope_store,
    QWICK_AMX::argmax, QWICK_AMX::attention, QWICK_AMX::attention_join, sizeof(QWICK_AMX::Item), QWICK_AMX::read, QWICK_AMX::busy_tiles,
    12, {kFormBF16, kFormBF16}, QWICK_AMX::tile_panel_bytes,
    QWICK_AMX::matmul_many,
};

}  // namespace qwick
