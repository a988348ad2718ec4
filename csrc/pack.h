// One tile of a stored matrix, laid out for the kernels. ISA-free; knows nothing of memory, files or threads.
#pragma once

#include "packed.h"

namespace qwick {

// Writes tile t of `seg` at `out` (seg.tile_bytes, zeroed beforehand or not: all but padding at its end is written).
// Rows past s.n become zeros. row_bytes, block_bytes: of the stored type.
void pack_tile(const Source& s, const Segment& seg, int t, size_t row_bytes, size_t block_bytes, uint8_t* out);

}  // namespace qwick
