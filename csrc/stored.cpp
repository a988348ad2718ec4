// Stored rows to numbers, group by group of 32, in the order of multiplications that ggml has.
#include "stored.h"

#include <string.h>

#include <stdexcept>

#include "blocks.h"

namespace qwick {
namespace {

struct StoredInfo {
  const char* name;
  int block, bytes;
  Kind kind;
};
constexpr StoredInfo kStored[] = {
    {"f32", 1, 4, Kind::F32},           {"f16", 1, 2, Kind::F16},           {"bf16", 1, 2, Kind::BF16},
    {"q4_0", 32, 18, Kind::I4},         {"q4_1", 32, 20, Kind::I4M},        {"q5_0", 32, 22, Kind::I5},
    {"q5_1", 32, 24, Kind::I5M},        {"q8_0", 32, 34, Kind::I8},         {"q2_k", kSuper, 84, Kind::I2K},
    {"q3_k", kSuper, 110, Kind::I3S},   {"q4_k", kSuper, 144, Kind::I4K},   {"q5_k", kSuper, 176, Kind::I5K},
    {"q6_k", kSuper, 210, Kind::I6S},   {"iq4_nl", 32, 18, Kind::I4N},      {"iq4_xs", kSuper, 136, Kind::I4NS},
    {"mxfp4", 32, 17, Kind::I4E},       {"q4_z", 32, 19, Kind::I4Z},        {"nf4", 32, 18, Kind::I4F},
};
const StoredInfo& info(Stored type) { return kStored[static_cast<int>(type)]; }

float half_value(const uint8_t* p) { return f16_to_f32(half_at(p, 0)); }

// 32 weights: w = scale * (quant - zero point of the class) - offset, each half of them with its own.
struct Group {
  uint8_t quants[kGroup];
  float scale[2] = {0, 0}, offset[2] = {0, 0};

  void nibbles(const uint8_t* p) {  // the low ones first
    for (int i = 0; i < 16; ++i) quants[i] = p[i] & 15, quants[i + 16] = p[i] >> 4;
  }
  void fifth_bits(const uint8_t* p) {
    for (int i = 0; i < kGroup; ++i) quants[i] |= (p[i / 8] >> i % 8 & 1) << 4;
  }
  void one(float d) { scale[0] = scale[1] = d; }
  void minimum(float m) { offset[0] = offset[1] = -m; }
  void levels(const uint8_t* d, const uint8_t* dmin, const uint8_t* scales, int g) {
    uint8_t s, m;
    scale_min(scales, g, s, m);
    one(half_value(d) * s);
    minimum(-(half_value(dmin) * m));
  }
};

// Of 32 quants in nibbles, with what else the class says that a block has.
template <class Block, Kind kind>
Group nibble_group(const Block& b) {
  Group out;
  out.nibbles(b.q);
  out.one(half_value(b.d));
  if constexpr (quant_bits(kind) == 5) out.fifth_bits(b.high);
  if constexpr (has_minimum(kind)) out.minimum(half_value(b.m));
  return out;
}

Group group_of(Stored type, const uint8_t* row, int g) {
  Group out;
  const int part = g % 8;  // of a block of 256
  switch (type) {
    case Stored::Q4_0:
    case Stored::NF4:
    case Stored::IQ4_NL: return nibble_group<BlockQ4_0, Kind::I4>(reinterpret_cast<const BlockQ4_0*>(row)[g]);
    case Stored::Q4_1: return nibble_group<BlockQ4_1, Kind::I4M>(reinterpret_cast<const BlockQ4_1*>(row)[g]);
    case Stored::Q4_Z: {
      const auto& b = reinterpret_cast<const BlockQ4_Z*>(row)[g];
      out.nibbles(b.q);
      out.one(half_value(b.d));
      out.minimum(-(half_value(b.d) * b.zero));
      break;
    }
    case Stored::MXFP4: {
      const auto& b = reinterpret_cast<const BlockMXFP4*>(row)[g];
      out.nibbles(b.q);
      out.one(half_power(b.e));
      break;
    }
    case Stored::Q5_0: return nibble_group<BlockQ5_0, Kind::I5>(reinterpret_cast<const BlockQ5_0*>(row)[g]);
    case Stored::Q5_1: return nibble_group<BlockQ5_1, Kind::I5M>(reinterpret_cast<const BlockQ5_1*>(row)[g]);
    case Stored::Q8_0: {
      const auto& b = reinterpret_cast<const BlockQ8_0*>(row)[g];
      for (int i = 0; i < kGroup; ++i) out.quants[i] = static_cast<uint8_t>(b.q[i]) ^ 0x80;
      out.one(half_value(b.d));
      break;
    }
    case Stored::Q2_K: {
      const auto& b = reinterpret_cast<const BlockQ2_K*>(row)[g / 8];
      for (int i = 0; i < kGroup; ++i) out.quants[i] = b.q[part / 4 * 32 + i] >> part % 4 * 2 & 3;
      for (int h = 0; h < 2; ++h) {
        const uint8_t s = b.scales[2 * part + h];
        out.scale[h] = half_value(b.d) * (s & 15);
        out.offset[h] = half_value(b.dmin) * (s >> 4);
      }
      break;
    }
    case Stored::Q3_K: {
      const auto& b = reinterpret_cast<const BlockQ3_K*>(row)[g / 8];
      for (int i = 0; i < kGroup; ++i)
        out.quants[i] = (b.q[part / 4 * 32 + i] >> part % 4 * 2 & 3) | (b.high[i] >> part & 1) << 2;
      for (int h = 0; h < 2; ++h) out.scale[h] = half_value(b.d) * scale_of(b, 2 * part + h);
      break;
    }
    case Stored::Q4_K: {
      const auto& b = reinterpret_cast<const BlockQ4_K*>(row)[g / 8];
      for (int i = 0; i < kGroup; ++i) out.quants[i] = b.q[part / 2 * 32 + i] >> part % 2 * 4 & 15;
      out.levels(b.d, b.dmin, b.scales, part);
      break;
    }
    case Stored::Q5_K: {
      const auto& b = reinterpret_cast<const BlockQ5_K*>(row)[g / 8];
      for (int i = 0; i < kGroup; ++i)
        out.quants[i] = (b.q[part / 2 * 32 + i] >> part % 2 * 4 & 15) | (b.high[i] >> part & 1) << 4;
      out.levels(b.d, b.dmin, b.scales, part);
      break;
    }
    case Stored::Q6_K: {
      const auto& b = reinterpret_cast<const BlockQ6_K*>(row)[g / 8];
      const uint8_t* low = b.low + part / 4 * 64 + part % 2 * 32;  // quarter `part % 4` of half `part / 4`
      const uint8_t* high = b.high + part / 4 * 32;
      for (int i = 0; i < kGroup; ++i)
        out.quants[i] = (low[i] >> part % 4 / 2 * 4 & 15) | (high[i] >> part % 4 * 2 & 3) << 4;
      for (int h = 0; h < 2; ++h) out.scale[h] = half_value(b.d) * b.scales[2 * part + h];
      break;
    }
    case Stored::IQ4_XS: {
      const auto& b = reinterpret_cast<const BlockIQ4_XS*>(row)[g / 8];
      out.nibbles(b.q + 16 * part);
      out.one(half_value(b.d) * scale_of(b, part));
      break;
    }
    case Stored::F32:
    case Stored::F16:
    case Stored::BF16: break;
  }
  return out;
}

}  // namespace

Stored stored_type(const std::string& name) {
  for (size_t i = 0; i < sizeof kStored / sizeof *kStored; ++i)
    if (name == kStored[i].name) return static_cast<Stored>(i);
  throw std::invalid_argument("unknown stored type '" + name + "'");
}

const char* stored_name(Stored type) { return info(type).name; }
Kind packed_kind(Stored type) { return info(type).kind; }
int stored_block(Stored type) { return info(type).block; }
size_t stored_block_bytes(Stored type) { return info(type).bytes; }
size_t stored_row_bytes(Stored type, int k) {
  return static_cast<size_t>(k / info(type).block) * info(type).bytes;
}

void decode_stored_row(Stored type, const uint8_t* row, int k, float* out) {
  const Kind kind = packed_kind(type);
  if (kind == Kind::F32) memcpy(out, row, sizeof(float) * k);
  for (int i = 0; kind == Kind::F16 && i < k; ++i) out[i] = f16_to_f32(half_at(row, i));
  for (int i = 0; kind == Kind::BF16 && i < k; ++i) {
    const uint32_t bits = static_cast<uint32_t>(half_at(row, i)) << 16;
    memcpy(&out[i], &bits, 4);
  }
  for (int g = 0; is_integer(kind) && g < k / kGroup; ++g, out += kGroup) {
    const Group group = group_of(type, row, g);
    for (int i = 0; i < kGroup; ++i) {
      const int q = from_table(kind) ? table_of(kind)[group.quants[i]] : group.quants[i];
      out[i] = group.scale[i / 16] * (q - zero_point(kind)) - group.offset[i / 16];
    }
  }
}

float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero and subnormals: fraction * 2^-24, exact in f32
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

}  // namespace qwick
