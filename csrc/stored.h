// The stored types (GGUF types and plain floats): their names, sizes, packed classes, and what a row of them means.
// ISA-free; knows nothing of tiles.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "kinds.h"

namespace qwick {

enum class Stored : int { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, Q4_Z, NF4 };

// Name as GGUF spells it, lower case ("q5_0"); throws std::invalid_argument for another.
Stored stored_type(const std::string& name);
const char* stored_name(Stored type);
Kind packed_kind(Stored type);
int stored_block(Stored type);         // k per block
size_t stored_block_bytes(Stored type);
size_t stored_row_bytes(Stored type, int k);
void decode_stored_row(Stored type, const uint8_t* row, int k, float* out);  // out: [k]

float f16_to_f32(uint16_t h);

}  // namespace qwick
