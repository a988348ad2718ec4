// The stored blocks, as bytes: ggml's Q4_K, Q5_0, Q6_K and Q8_0 (struct definitions in ggml-common.h of the GGML
// project). ISA-free; knows nothing of tiles.
#pragma once

#include <stdint.h>
#include <string.h>

namespace qwick {

// Bytes only: a mapped file need not be aligned.
struct BlockQ8_0 {
  uint8_t d[2];
  int8_t q[32];
};
struct BlockQ5_0 {
  uint8_t d[2];
  uint8_t high[4];
  uint8_t q[16];
};
struct BlockQ4_K {
  uint8_t d[2], dmin[2];
  uint8_t scales[12];
  uint8_t q[128];
};
struct BlockQ6_K {
  uint8_t low[128], high[64];
  int8_t scales[16];
  uint8_t d[2];
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ6_K) == 210);

inline uint16_t half_at(const uint8_t* p, size_t i) {
  uint16_t h;
  memcpy(&h, p + 2 * i, 2);
  return h;
}

// The 6-bit scale and minimum of group `j` of a Q4_K block.
inline void scale_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    min = s[j + 4] >> 4 | s[j] >> 6 << 4;
  }
}

}  // namespace qwick
