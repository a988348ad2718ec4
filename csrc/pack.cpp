// Stored blocks to tiles (kinds.h). Only bits move, four rows at a time: 16 bytes of each row are transposed so
// that a vector holds four bytes of each, and shifts and masks then move all rows' bits at once.
#include "pack.h"

#include <string.h>

#include "blocks.h"

namespace qwick {
namespace {

using Four = uint32_t __attribute__((vector_size(16)));  // a 32-bit word of each of four rows

constexpr uint32_t kLow4 = 0x0f0f0f0f, kHigh4 = 0xf0f0f0f0, kLow2 = 0x03030303, kLow1 = 0x01010101;
constexpr int kQuarters = kTile / 4;

// The 16 rows of a tile, block by block; rows past the matrix are blocks of zeros.
struct TileRows {
  const uint8_t* data[kTile];
  size_t step[kTile];

  template <class Block>
  const Block& at(int row, int block) const {
    return *reinterpret_cast<const Block*>(data[row] + block * step[row]);
  }
};

void store(uint8_t* to, Four value) { memcpy(to, &value, 16); }

// Bytes 0..15 of `p(row)` for four rows -> out[i] holds bytes 4 i .. 4 i + 3 of each.
template <class Bytes>
void transpose(const Bytes& p, Four out[4]) {
  uint64_t half[4][2];
  for (int r = 0; r < 4; ++r) memcpy(half[r], p(r), 16);
  using Two = uint64_t __attribute__((vector_size(16)));
  for (int i = 0; i < 2; ++i) {
    const Four a = reinterpret_cast<Four>(Two{half[0][i], half[1][i]});  // words: a0 a1 b0 b1
    const Four b = reinterpret_cast<Four>(Two{half[2][i], half[3][i]});
    out[2 * i] = Four{a[0], a[2], b[0], b[2]};
    out[2 * i + 1] = Four{a[1], a[3], b[1], b[3]};
  }
}

// Steps 2 j and 2 j + 1 of a group in one vector; `step(t)`: step t, each byte a quant of four bits.
template <class Step>
void store_nibbles(uint8_t* out, const Step& step) {
  for (int j = 0; j < 4; ++j) store(out + 64 * j, step(2 * j) | step(2 * j + 1) << 4);
}

// The same of 16 bytes of four rows whose low nibbles are the first 16 quants, the high ones the last.
void store_halves(uint8_t* out, const Four bytes[4]) {
  store_nibbles(out, [&](int t) { return (t < 4 ? bytes[t] : bytes[t - 4] >> 4) & kLow4; });
}

// Swaps the bits whose places differ in that place bit `high` is set in one and `low` in the other.
template <int high, int low>
Four swap_places(Four x) {
  constexpr int shift = (1 << high) - (1 << low);
  constexpr uint32_t mask = [] {
    uint32_t m = 0;
    for (int i = 0; i < 32; ++i)
      if ((i >> low & 1) && !(i >> high & 1)) m |= 1u << i;
    return m;
  }();
  const Four change = ((x >> shift) ^ x) & mask;
  return x ^ change ^ change << shift;
}

// Bit 4 t + b -> bit 8 b + t: the fifth bits of 32 quants, by step instead of by place in the group.
Four by_step(Four x) {
  return swap_places<2, 0>(swap_places<3, 0>(swap_places<3, 1>(swap_places<4, 1>(x))));
}

// 32 bytes of four rows, eight words of each.
template <class Bytes>
void transpose32(const Bytes& p, Four out[8]) {
  transpose([&](int r) { return p(r); }, out);
  transpose([&](int r) { return p(r) + 16; }, out + 4);
}

// Two planes: two bits of each of the eight steps, from `shift` on.
void store_two_bits(uint8_t* out, const Four step[8], int shift) {
  for (int j = 0; j < 2; ++j) {
    Four plane = {};
    for (int t = 0; t < 4; ++t) plane |= (step[4 * j + t] >> shift & kLow2) << 2 * t;
    store(out + 64 * j, plane);
  }
}

// One plane: bit `shift` of each of the eight steps.
void store_bits(uint8_t* out, const Four step[8], int shift) {
  Four plane = {};
  for (int t = 0; t < 8; ++t) plane |= (step[t] >> shift & kLow1) << t;
  store(out, plane);
}

// A packer gives for one block: `quants` of four rows from r0 on; `scales` of one row, and what its 256 k share.

struct PackQ8_0 {
  using Block = BlockQ8_0;
  static constexpr Kind kind = Kind::I8;
  static constexpr int groups = 1;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    Four w[8];
    transpose32([&](int r) { return reinterpret_cast<const uint8_t*>(rows.at<Block>(r0 + r, block).q); }, w);
    for (int t = 0; t < 8; ++t) store(out + 64 * t, w[t] ^ 0x80808080u);
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t*) { memcpy(out + 2 * row, b.d, 2); }
};

// Q4_0, Q4_1, Q4_Z, Q5_0, Q5_1, IQ4_NL, NF4, MXFP4.
template <class B, Kind k>
struct PackNibbles {
  using Block = B;
  static constexpr Kind kind = k;
  static constexpr int groups = 1;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    Four w[4];
    transpose([&](int r) { return rows.at<Block>(r0 + r, block).q; }, w);
    store_halves(out, w);
    if constexpr (quant_bits(kind) == 5) {
      uint32_t high[4];
      for (int r = 0; r < 4; ++r) memcpy(&high[r], rows.at<Block>(r0 + r, block).high, 4);
      store(out + 256, by_step(Four{high[0], high[1], high[2], high[3]}));
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t*) {
    if constexpr (scaling(kind) == Scaling::Power) {
      out[row] = b.e;
    } else {
      memcpy(out + 2 * row, b.d, 2);
      if constexpr (scaling(kind) == Scaling::Minimum) memcpy(out + 2 * (kTile + row), b.m, 2);
      if constexpr (scaling(kind) == Scaling::Zero) out[2 * kTile + row] = b.zero;
    }
  }
};

// Q2_K, Q3_K: four groups share 32 bytes.
template <class B, Kind k>
struct PackTwoBits {
  using Block = B;
  static constexpr Kind kind = k;
  static constexpr int groups = 8;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    Four low[16], high[8];
    for (int half = 0; half < 2; ++half)
      transpose32([&](int r) { return rows.at<Block>(r0 + r, block).q + 32 * half; }, low + 8 * half);
    if constexpr (quant_bits(kind) == 3) transpose32([&](int r) { return rows.at<Block>(r0 + r, block).high; }, high);
    for (int g = 0; g < groups; ++g, out += quant_bytes(kind)) {
      store_two_bits(out, low + g / 4 * 8, g % 4 * 2);
      if constexpr (quant_bits(kind) == 3) store_bits(out + 128, high, g);
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    memcpy(super + 2 * row, b.d, 2);
    if constexpr (has_minimum(kind)) memcpy(super + 2 * (kTile + row), b.dmin, 2);
    for (int j = 0; j < 2 * groups; ++j) out[kTile * j + row] = scale(b, j);
  }

 private:
  static uint8_t scale(const BlockQ2_K& b, int j) { return b.scales[j]; }
  static uint8_t scale(const BlockQ3_K& b, int j) { return static_cast<uint8_t>(scale_of(b, j)); }
};

// Q4_K, Q5_K: two groups share 32 bytes.
template <class B, Kind k>
struct PackLevels {
  using Block = B;
  static constexpr Kind kind = k;
  static constexpr int groups = 8;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    Four high[8];
    if constexpr (quant_bits(kind) == 5) transpose32([&](int r) { return rows.at<Block>(r0 + r, block).high; }, high);
    for (int pair = 0; pair < 4; ++pair, out += 2 * quant_bytes(kind)) {
      Four w[8];
      transpose32([&](int r) { return rows.at<Block>(r0 + r, block).q + 32 * pair; }, w);
      uint8_t* second = out + quant_bytes(kind);
      for (int j = 0; j < 4; ++j) {
        const Four even = w[2 * j], odd = w[2 * j + 1];
        store(out + 64 * j, (even & kLow4) | (odd & kLow4) << 4);
        store(second + 64 * j, (even >> 4 & kLow4) | (odd & kHigh4));
      }
      if constexpr (quant_bits(kind) == 5) {
        store_bits(out + 256, high, 2 * pair);
        store_bits(second + 256, high, 2 * pair + 1);
      }
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    for (int g = 0; g < groups; ++g) scale_min(b.scales, g, out[2 * kTile * g + row], out[2 * kTile * g + kTile + row]);
    memcpy(super + 2 * row, b.d, 2);
    memcpy(super + 2 * (kTile + row), b.dmin, 2);
  }
};

struct PackQ6_K {
  using Block = BlockQ6_K;
  static constexpr Kind kind = Kind::I6S;
  static constexpr int groups = 8;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    for (int half = 0; half < 2; ++half) {
      Four low[16], high[8];
      for (int i = 0; i < 2; ++i)
        transpose32([&](int r) { return rows.at<Block>(r0 + r, block).low + 64 * half + 32 * i; }, low + 8 * i);
      transpose32([&](int r) { return rows.at<Block>(r0 + r, block).high + 32 * half; }, high);
      for (int part = 0; part < 4; ++part, out += quant_bytes(kind)) {
        const Four* bytes = low + part % 2 * 8;
        const int nibble = part / 2 * 4;
        store_nibbles(out, [&](int t) { return bytes[t] >> nibble & kLow4; });
        store_two_bits(out + 256, high, 2 * part);
      }
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    for (int j = 0; j < 2 * groups; ++j) out[kTile * j + row] = static_cast<uint8_t>(b.scales[j]);
    memcpy(super + 2 * row, b.d, 2);
  }
};

struct PackIQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr Kind kind = Kind::I4NS;
  static constexpr int groups = 8;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    for (int g = 0; g < groups; ++g, out += quant_bytes(kind)) {
      Four w[4];
      transpose([&](int r) { return rows.at<Block>(r0 + r, block).q + 16 * g; }, w);
      store_halves(out, w);
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    for (int g = 0; g < groups; ++g) out[kTile * g + row] = static_cast<uint8_t>(scale_of(b, g));
    memcpy(super + 2 * row, b.d, 2);
  }
};

template <class P>
void pack_blocks(const TileRows& rows, int k, uint8_t* out, uint8_t* scales, uint8_t* super) {
  const int blocks = k / (kGroup * P::groups);
  for (int b = 0; b < blocks; ++b) {
    for (int quarter = 0; quarter < kQuarters; ++quarter) P::quants(rows, b, 4 * quarter, out + 16 * quarter);
    for (int r = 0; r < kTile; ++r) P::scales(rows.at<typename P::Block>(r, b), r, scales, super);
    out += P::groups * quant_bytes(P::kind);
    scales += P::groups * scale_bytes(P::kind);
    super += super_bytes(P::kind);
  }
}

template <class T>
void pack_floats(const TileRows& rows, int k, uint8_t* out) {
  for (int i = 0; i < k; ++i, out += kTile * sizeof(T))
    for (int r = 0; r < kTile; ++r) memcpy(out + r * sizeof(T), rows.data[r] + i * rows.step[r], sizeof(T));
}

}  // namespace

void pack_tile(const Source& s, const Segment& seg, int t, size_t row_bytes, size_t block_bytes, uint8_t* out) {
  static const uint8_t zeros[256] = {};  // a block of zeros of any type
  TileRows rows;
  for (int r = 0; r < kTile; ++r) {
    const size_t row = static_cast<size_t>(t) * kTile + r;
    const bool inside = row < static_cast<size_t>(s.n);
    rows.data[r] = inside ? s.data + row * row_bytes : zeros;
    rows.step[r] = inside ? block_bytes : 0;
  }
  uint8_t *scales = out + (seg.scales(t) - seg.tile(t)), *super = out + (seg.supers(t) - seg.tile(t));
  const auto pack = [&](auto packer) { pack_blocks<decltype(packer)>(rows, s.k, out, scales, super); };
  switch (s.type) {
    case Stored::F32: return pack_floats<uint32_t>(rows, s.k, out);
    case Stored::F16:
    case Stored::BF16: return pack_floats<uint16_t>(rows, s.k, out);
    case Stored::Q4_0: return pack(PackNibbles<BlockQ4_0, Kind::I4>());
    case Stored::Q4_1: return pack(PackNibbles<BlockQ4_1, Kind::I4M>());
    case Stored::Q5_0: return pack(PackNibbles<BlockQ5_0, Kind::I5>());
    case Stored::Q5_1: return pack(PackNibbles<BlockQ5_1, Kind::I5M>());
    case Stored::Q8_0: return pack(PackQ8_0());
    case Stored::Q2_K: return pack(PackTwoBits<BlockQ2_K, Kind::I2K>());
    case Stored::Q3_K: return pack(PackTwoBits<BlockQ3_K, Kind::I3S>());
    case Stored::Q4_K: return pack(PackLevels<BlockQ4_K, Kind::I4K>());
    case Stored::Q5_K: return pack(PackLevels<BlockQ5_K, Kind::I5K>());
    case Stored::Q6_K: return pack(PackQ6_K());
    case Stored::IQ4_NL: return pack(PackNibbles<BlockQ4_0, Kind::I4N>());
    case Stored::IQ4_XS: return pack(PackIQ4_XS());
    case Stored::MXFP4: return pack(PackNibbles<BlockMXFP4, Kind::I4E>());
    case Stored::Q4_Z: return pack(PackNibbles<BlockQ4_Z, Kind::I4Z>());
    case Stored::NF4: return pack(PackNibbles<BlockQ4_0, Kind::I4F>());
  }
}

}  // namespace qwick
