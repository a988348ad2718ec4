// Stored blocks to tiles (kernels.h). Only bits move, four rows at a time: 16 bytes of each row are transposed so
// that a vector holds four bytes of each, and shifts and masks then move all rows' bits at once.
#include "pack.h"

#include <string.h>

#include "blocks.h"

namespace qwick {
namespace {

using Four = uint32_t __attribute__((vector_size(16)));  // a 32-bit word of each of four rows

constexpr uint32_t kLow4 = 0x0f0f0f0f, kHigh4 = 0xf0f0f0f0, kLow2 = 0x03030303;
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

struct PackQ8_0 {
  using Block = BlockQ8_0;
  static constexpr Kind kind = Kind::I8;
  static constexpr int groups = 1, super_bytes = 0;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    for (int half = 0; half < 2; ++half) {
      Four w[4];
      transpose([&](int r) { return rows.at<Block>(r0 + r, block).q + 16 * half; }, w);
      for (int i = 0; i < 4; ++i) store(out + 64 * (4 * half + i), w[i] ^ 0x80808080u);
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t*) { memcpy(out + 2 * row, b.d, 2); }
};

struct PackQ5_0 {
  using Block = BlockQ5_0;
  static constexpr Kind kind = Kind::I5;
  static constexpr int groups = 1, super_bytes = 0;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    Four w[4];
    uint32_t high[4];
    transpose([&](int r) { return rows.at<Block>(r0 + r, block).q; }, w);
    for (int r = 0; r < 4; ++r) memcpy(&high[r], rows.at<Block>(r0 + r, block).high, 4);
    store_nibbles(out, [&](int t) { return (t < 4 ? w[t] : w[t - 4] >> 4) & kLow4; });
    store(out + 256, by_step(Four{high[0], high[1], high[2], high[3]}));
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t*) { memcpy(out + 2 * row, b.d, 2); }
};

struct PackQ4_K {
  using Block = BlockQ4_K;
  static constexpr Kind kind = Kind::I4;
  static constexpr int groups = 8, super_bytes = 64;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    for (int pair = 0; pair < 4; ++pair, out += 2 * quant_bytes(kind)) {
      Four w[8];
      for (int half = 0; half < 2; ++half)
        transpose([&](int r) { return rows.at<Block>(r0 + r, block).q + 32 * pair + 16 * half; }, w + 4 * half);
      for (int j = 0; j < 4; ++j) {
        const Four even = w[2 * j], odd = w[2 * j + 1];
        store(out + 64 * j, (even & kLow4) | (odd & kLow4) << 4);
        store(out + quant_bytes(kind) + 64 * j, (even >> 4 & kLow4) | (odd & kHigh4));
      }
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    for (int g = 0; g < groups; ++g) scale_min(b.scales, g, out[32 * g + row], out[32 * g + kTile + row]);
    memcpy(super + 2 * row, b.d, 2);
    memcpy(super + 32 + 2 * row, b.dmin, 2);
  }
};

struct PackQ6_K {
  using Block = BlockQ6_K;
  static constexpr Kind kind = Kind::I6;
  static constexpr int groups = 8, super_bytes = 32;

  static void quants(const TileRows& rows, int block, int r0, uint8_t* out) {
    for (int half = 0; half < 2; ++half) {
      Four low[16], high[8];
      for (int i = 0; i < 4; ++i)
        transpose([&](int r) { return rows.at<Block>(r0 + r, block).low + 64 * half + 16 * i; }, low + 4 * i);
      for (int i = 0; i < 2; ++i)
        transpose([&](int r) { return rows.at<Block>(r0 + r, block).high + 32 * half + 16 * i; }, high + 4 * i);
      for (int part = 0; part < 4; ++part, out += quant_bytes(kind)) {
        const Four* bytes = low + part % 2 * 8;
        const int nibble = part / 2 * 4;
        store_nibbles(out, [&](int t) { return bytes[t] >> nibble & kLow4; });
        for (int j = 0; j < 2; ++j) {
          Four plane = {};
          for (int t = 0; t < 4; ++t) plane |= (high[4 * j + t] >> 2 * part & kLow2) << 2 * t;
          store(out + 256 + 64 * j, plane);
        }
      }
    }
  }
  static void scales(const Block& b, int row, uint8_t* out, uint8_t* super) {
    for (int g = 0; g < groups; ++g) {
      out[32 * g + row] = static_cast<uint8_t>(b.scales[2 * g]);
      out[32 * g + kTile + row] = static_cast<uint8_t>(b.scales[2 * g + 1]);
    }
    memcpy(super + 2 * row, b.d, 2);
  }
};

template <class P>
void pack_blocks(const TileRows& rows, int k, uint8_t* out, uint8_t* scales) {
  const int blocks = k / (kGroup * P::groups);
  uint8_t* super = scales + static_cast<size_t>(k / kGroup) * 32;
  for (int b = 0; b < blocks; ++b) {
    for (int quarter = 0; quarter < kQuarters; ++quarter) P::quants(rows, b, 4 * quarter, out + 16 * quarter);
    for (int r = 0; r < kTile; ++r) P::scales(rows.at<typename P::Block>(r, b), r, scales, super);
    out += P::groups * quant_bytes(P::kind);
    scales += P::groups * 32;
    super += P::super_bytes;
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
  uint8_t* scales = out + (seg.scales(t) - seg.tile(t));
  switch (s.type) {
    case Stored::F32: return pack_floats<uint32_t>(rows, s.k, out);
    case Stored::F16:
    case Stored::BF16: return pack_floats<uint16_t>(rows, s.k, out);
    case Stored::Q4_K: return pack_blocks<PackQ4_K>(rows, s.k, out, scales);
    case Stored::Q5_0: return pack_blocks<PackQ5_0>(rows, s.k, out, scales);
    case Stored::Q6_K: return pack_blocks<PackQ6_K>(rows, s.k, out, scales);
    case Stored::Q8_0: return pack_blocks<PackQ8_0>(rows, s.k, out, scales);
  }
}

}  // namespace qwick
