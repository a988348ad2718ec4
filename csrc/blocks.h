// The stored blocks, as bytes: ggml's (struct definitions in ggml-common.h of the GGML project). ISA-free; knows nothing
// of tiles.
#pragma once

#include <stdint.h>
#include <string.h>

namespace qwick {

// Bytes only: a mapped file need not be aligned. Nibbles of 32 quants: low ones are the first 16.
struct BlockQ4_0 {  // and IQ4_NL, NF4
  uint8_t d[2];
  uint8_t q[16];
};
struct BlockQ4_Z {  // ours: what GPTQ and AWQ store
  uint8_t d[2];
  uint8_t zero;
  uint8_t q[16];
};
struct BlockMXFP4 {
  uint8_t e;  // e8m0: a power of two
  uint8_t q[16];
};
struct BlockQ4_1 {
  uint8_t d[2], m[2];
  uint8_t q[16];
};
struct BlockQ5_0 {
  uint8_t d[2];
  uint8_t high[4];
  uint8_t q[16];
};
struct BlockQ5_1 {
  uint8_t d[2], m[2];
  uint8_t high[4];
  uint8_t q[16];
};
struct BlockQ8_0 {
  uint8_t d[2];
  int8_t q[32];
};
struct BlockQ2_K {
  uint8_t scales[16];  // of 16 quants each: scale in the low nibble, minimum in the high one
  uint8_t q[64];
  uint8_t d[2], dmin[2];
};
struct BlockQ3_K {
  uint8_t high[32];  // bit g of byte i: the third bit of quant i of group g
  uint8_t q[64];
  uint8_t scales[12];
  uint8_t d[2];
};
struct BlockQ4_K {
  uint8_t d[2], dmin[2];
  uint8_t scales[12];
  uint8_t q[128];
};
struct BlockQ5_K {
  uint8_t d[2], dmin[2];
  uint8_t scales[12];
  uint8_t high[32];  // bit g of byte i: the fifth bit of quant i of group g
  uint8_t q[128];
};
struct BlockQ6_K {
  uint8_t low[128], high[64];
  int8_t scales[16];
  uint8_t d[2];
};
struct BlockIQ4_XS {
  uint8_t d[2];
  uint8_t scales_high[2], scales_low[4];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ4_Z) == 19 && sizeof(BlockMXFP4) == 17);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_XS) == 136);

inline uint16_t half_at(const uint8_t* p, size_t i) {
  uint16_t h;
  memcpy(&h, p + 2 * i, 2);
  return h;
}

// Half of the e8m0 number: 2^(e - 128), for tables of doubled values.
inline float half_power(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

// The 6-bit scale and minimum of group `j` of a Q4_K or Q5_K block.
inline void scale_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    min = s[j + 4] >> 4 | s[j] >> 6 << 4;
  }
}
// The scale of the 16 quants `j` of a Q3_K block.
inline int8_t scale_of(const BlockQ3_K& b, int j) {
  const int low = b.scales[j % 8] >> j / 8 * 4 & 15, high = b.scales[8 + j % 4] >> j / 4 * 2 & 3;
  return static_cast<int8_t>((low | high << 4) - 32);
}
// The scale of group `j` of an IQ4_XS block.
inline int8_t scale_of(const BlockIQ4_XS& b, int j) {
  const int low = b.scales_low[j / 2] >> j % 2 * 4 & 15, high = half_at(b.scales_high, 0) >> 2 * j & 3;
  return static_cast<int8_t>((low | high << 4) - 32);
}

}  // namespace qwick
