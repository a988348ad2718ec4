// The packed classes of weights: what a quant and its scales are, and how many bytes they take. The layout of a tile is
// stated here and nowhere else; packing (pack.cpp), decoding (packed.cpp) and the kernels (inl/) follow it.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qwick {

// A matrix W[n][k] is cut into tiles of 16 output rows. One layout serves every instruction set: a tile's 16
// rows are one 512-bit, two 256-bit or four 128-bit vectors of 32-bit lanes. Packing moves bits and never
// rounds: a packed matrix decodes to exactly the values of the stored one.
constexpr int kTile = 16;
constexpr int kGroup = 32;        // k per integer dot product, per scale of weights and per scale of activations
constexpr int kSuper = 256;       // k per second-level scale of weights (the "K" formats)

// An integer class is a number of bits and a kind of scaling; N, F, E: the quants are
// places in a table.
enum class Kind : int { I2K, I3S, I4, I4M, I4K, I4N, I4NS, I4Z, I4F, I4E, I5, I5M, I5K, I6S, I8, BF16, F16, F32 };
constexpr int kKinds = 18;

// Scales of a tile follow its quants, group after group, and are followed by what 256 k share:
//   One      f16 scale [16]                                             w = scale * (q - zero point)
//   Minimum  f16 scale [16], f16 minimum [16]                           w = scale * q + minimum
//   Zero     f16 scale [16], u8 zero [16]                               w = scale * q - scale * zero, both exact in float32
//   Power    u8 e [16]                                                  w = 2^(e - 128) * (q - zero point)
//   Levels   u8 scale [16], u8 minimum [16]; 256: f16 d [16], dmin [16] w = d * scale * q - dmin * minimum
//            I2K: u8 [2][16] (k 0..15, 16..31), scale in the low nibble, minimum in the high one
//   Signed   i8 scale [halves][16] (k 0..15, 16..31); 256: f16 d [16]   w = d * scale * (q - zero point)
enum class Scaling { One, Minimum, Zero, Power, Levels, Signed };

constexpr bool is_integer(Kind kind) { return kind <= Kind::I8; }
constexpr int quant_bits(Kind kind) {
  return kind == Kind::I2K ? 2 : kind == Kind::I3S ? 3 : kind <= Kind::I4E ? 4 : kind <= Kind::I5K ? 5 : kind == Kind::I6S ? 6 : 8;
}
constexpr Scaling scaling(Kind kind) {
  switch (kind) {
    case Kind::I4M:
    case Kind::I5M: return Scaling::Minimum;
    case Kind::I4Z: return Scaling::Zero;
    case Kind::I4E: return Scaling::Power;
    case Kind::I2K:
    case Kind::I4K:
    case Kind::I5K: return Scaling::Levels;
    case Kind::I3S:
    case Kind::I4NS:
    case Kind::I6S: return Scaling::Signed;
    default: return Scaling::One;
  }
}
constexpr bool has_minimum(Kind kind) {  // something to subtract, given by the weights
  return scaling(kind) == Scaling::Minimum || scaling(kind) == Scaling::Zero || scaling(kind) == Scaling::Levels;
}
constexpr bool from_table(Kind kind) {
  return kind == Kind::I4N || kind == Kind::I4NS || kind == Kind::I4F || kind == Kind::I4E;
}
constexpr int halves(Kind kind) {  // scales per group
  return kind == Kind::I2K || kind == Kind::I3S || kind == Kind::I6S ? 2 : 1;
}
constexpr int zero_point(Kind kind) {
  return has_minimum(kind) ? 0 : from_table(kind) ? 128 : 1 << (quant_bits(kind) - 1);
}

// What the quants of a class with a table stand for, plus 128: ggml's kvalues_iq4nl; 127 times the levels of NF4, rounded;
// twice those of FP4 (e2m1), ggml's kvalues_mxfp4.
constexpr uint8_t kTableN[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t kTableF[16] = {1, 40, 61, 78, 92, 105, 116, 128, 138, 148, 159, 171, 184, 199, 220, 255};
constexpr uint8_t kTableE[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};
constexpr const uint8_t* table_of(Kind kind) {
  return kind == Kind::I4F ? kTableF : kind == Kind::I4E ? kTableE : kTableN;
}

constexpr int largest_quant(Kind kind) {  // as it meets the dot product
  return from_table(kind) ? table_of(kind)[kind == Kind::I4E ? 7 : 15] : (1 << quant_bits(kind)) - 1;
}

// Quants of a tile. Step t of a group (t = 0..7) is 64 bytes: byte 4 * row + b holds k = 4 * t + b, the operand order of
// a 4-way 8-bit dot product. Planes of 64 bytes per group of 32 k x 16 rows:
//   2 bits   2: plane j holds two bits of each of the steps 4j .. 4j + 3
//   3 bits   those, then one whose bit t is the third bit of step t
//   4 bits   4: plane j holds step 2j in its low nibbles and step 2j + 1 in its high nibbles
//   5 bits   those, then one whose bit t is the fifth bit of step t
//   6 bits   those of 4 bits, then those of 2 bits with the two high bits
//   8 bits   8: plane t is step t
constexpr int quant_bytes(Kind kind) { return 64 * quant_bits(kind); }  // per group and tile
constexpr int scale_bytes(Kind kind) {
  switch (scaling(kind)) {
    case Scaling::Minimum: return 4 * kTile;
    case Scaling::Zero: return 3 * kTile;
    case Scaling::Power: return kTile;
    case Scaling::Signed: return halves(kind) * kTile;
    default: return 2 * kTile;
  }
}
constexpr int super_bytes(Kind kind) {  // per 256 k and tile
  return kTile * (scaling(kind) == Scaling::Levels ? 4 : scaling(kind) == Scaling::Signed ? 2 : 0);
}
constexpr int float_bytes(Kind kind) { return kind == Kind::F32 ? 4 : 2; }  // float classes: [k][16] elements

}  // namespace qwick
