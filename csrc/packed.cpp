// Block formats: ggml's Q4_K, Q5_0, Q6_K and Q8_0 (struct definitions in ggml-common.h of the GGML project).
#include "packed.h"

#include <string.h>
#include <sys/mman.h>

#include <new>
#include <stdexcept>

#include "pool.h"

namespace qwick {
namespace {

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

struct StoredInfo {
  const char* name;
  int block, bytes;
  Kind kind;
};
constexpr StoredInfo kStored[] = {
    {"f32", 1, 4, Kind::F32},         {"f16", 1, 2, Kind::F16},      {"bf16", 1, 2, Kind::BF16},
    {"q4_k", kSuper, 144, Kind::I4},  {"q5_0", 32, 22, Kind::I5},    {"q6_k", kSuper, 210, Kind::I6},
    {"q8_0", 32, 34, Kind::I8},
};
const StoredInfo& info(Stored type) { return kStored[static_cast<int>(type)]; }

size_t tile_bytes(Kind kind, int k) {
  const size_t groups = k / kGroup, supers = k / kSuper;
  size_t bytes = 0;
  switch (kind) {
    case Kind::I5:
    case Kind::I8: bytes = groups * (quant_bytes(kind) + 32); break;
    case Kind::I4: bytes = groups * (quant_bytes(kind) + 32) + supers * 64; break;
    case Kind::I6: bytes = groups * (quant_bytes(kind) + 32) + supers * 32; break;
    case Kind::BF16:
    case Kind::F16: bytes = static_cast<size_t>(k) * kTile * 2; break;
    case Kind::F32: bytes = static_cast<size_t>(k) * kTile * 4; break;
  }
  return (bytes + 63) / 64 * 64;
}

uint16_t half_at(const uint8_t* p, size_t i) {
  uint16_t h;
  memcpy(&h, p + 2 * i, 2);
  return h;
}
float half_value(const uint8_t* p) { return f16_to_f32(half_at(p, 0)); }

// ---- stored block -> 32 unsigned quants -----------------------------------------------------------------

void quants(Stored type, const uint8_t* row, int group, uint8_t* q) {
  switch (type) {
    case Stored::Q8_0: {
      const auto& b = reinterpret_cast<const BlockQ8_0*>(row)[group];
      for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(b.q[i]) ^ 0x80;
      break;
    }
    case Stored::Q5_0: {
      const auto& b = reinterpret_cast<const BlockQ5_0*>(row)[group];
      uint32_t high;
      memcpy(&high, b.high, 4);
      for (int i = 0; i < 16; ++i) {
        q[i] = (b.q[i] & 15) | (high >> i & 1) << 4;
        q[i + 16] = b.q[i] >> 4 | (high >> (i + 16) & 1) << 4;
      }
      break;
    }
    case Stored::Q4_K: {
      const auto& b = reinterpret_cast<const BlockQ4_K*>(row)[group / 8];
      const uint8_t* p = b.q + (group % 8) / 2 * 32;
      const int shift = group % 2 * 4;
      for (int i = 0; i < 32; ++i) q[i] = p[i] >> shift & 15;
      break;
    }
    case Stored::Q6_K: {
      const auto& b = reinterpret_cast<const BlockQ6_K*>(row)[group / 8];
      const int part = group % 8;  // 32 values: quarter `part % 4` of half `part / 4`
      const uint8_t* low = b.low + part / 4 * 64 + part % 2 * 32;
      const uint8_t* high = b.high + part / 4 * 32;
      const int nibble = part % 4 / 2 * 4, bits = part % 4 * 2;
      for (int i = 0; i < 32; ++i) q[i] = (low[i] >> nibble & 15) | (high[i] >> bits & 3) << 4;
      break;
    }
    default: break;
  }
}

// The 6-bit scale and minimum of group `j` of a Q4_K block.
void scale_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    min = s[j + 4] >> 4 | s[j] >> 6 << 4;
  }
}

// What a group's quants are multiplied with (k 0..15, 16..31), and what is subtracted.
void group_values(Stored type, const uint8_t* row, int g, float scale[2], float& offset) {
  offset = 0;
  if (type == Stored::Q8_0) scale[0] = scale[1] = half_value(reinterpret_cast<const BlockQ8_0*>(row)[g].d);
  if (type == Stored::Q5_0) scale[0] = scale[1] = half_value(reinterpret_cast<const BlockQ5_0*>(row)[g].d);
  if (type == Stored::Q4_K) {
    const auto& b = reinterpret_cast<const BlockQ4_K*>(row)[g / 8];
    uint8_t s, m;
    scale_min(b.scales, g % 8, s, m);
    scale[0] = scale[1] = half_value(b.d) * s;
    offset = half_value(b.dmin) * m;
  }
  if (type == Stored::Q6_K) {
    const auto& b = reinterpret_cast<const BlockQ6_K*>(row)[g / 8];
    for (int h = 0; h < 2; ++h) scale[h] = half_value(b.d) * b.scales[g % 8 * 2 + h];
  }
}

void pack_scales(Stored type, const uint8_t* const row[kTile], int rows, int k, uint8_t* out) {
  const int groups = k / kGroup;
  uint8_t* super = out + groups * 32;
  for (int r = 0; r < rows; ++r) {
    for (int g = 0; g < groups; ++g) {
      uint8_t* at = out + g * 32;
      if (type == Stored::Q8_0) memcpy(at + 2 * r, reinterpret_cast<const BlockQ8_0*>(row[r])[g].d, 2);
      if (type == Stored::Q5_0) memcpy(at + 2 * r, reinterpret_cast<const BlockQ5_0*>(row[r])[g].d, 2);
      if (type == Stored::Q4_K) {
        const auto& b = reinterpret_cast<const BlockQ4_K*>(row[r])[g / 8];
        scale_min(b.scales, g % 8, at[r], at[kTile + r]);
      }
      if (type == Stored::Q6_K) {
        const auto& b = reinterpret_cast<const BlockQ6_K*>(row[r])[g / 8];
        at[r] = static_cast<uint8_t>(b.scales[g % 8 * 2]);
        at[kTile + r] = static_cast<uint8_t>(b.scales[g % 8 * 2 + 1]);
      }
    }
    for (int s = 0; s < k / kSuper; ++s) {
      if (type == Stored::Q4_K) {
        const auto& b = reinterpret_cast<const BlockQ4_K*>(row[r])[s];
        memcpy(super + s * 64 + 2 * r, b.d, 2);
        memcpy(super + s * 64 + 32 + 2 * r, b.dmin, 2);
      }
      if (type == Stored::Q6_K)
        memcpy(super + s * 32 + 2 * r, reinterpret_cast<const BlockQ6_K*>(row[r])[s].d, 2);
    }
  }
}

using Steps = uint32_t[8][kTile];

void pack_planes(Kind kind, const Steps& step, uint8_t* out) {
  uint32_t plane[kTile];
  if (kind == Kind::I8) {
    memcpy(out, step, sizeof step);
    return;
  }
  for (int j = 0; j < 4; ++j, out += 64) {
    for (int r = 0; r < kTile; ++r)
      plane[r] = (step[2 * j][r] & 0x0f0f0f0f) | (step[2 * j + 1][r] & 0x0f0f0f0f) << 4;
    memcpy(out, plane, 64);
  }
  if (kind == Kind::I5) {
    for (int r = 0; r < kTile; ++r) {
      plane[r] = 0;
      for (int t = 0; t < 8; ++t) plane[r] |= (step[t][r] >> 4 & 0x01010101) << t;
    }
    memcpy(out, plane, 64);
  }
  if (kind == Kind::I6) {
    for (int j = 0; j < 2; ++j, out += 64) {
      for (int r = 0; r < kTile; ++r) {
        plane[r] = 0;
        for (int t = 0; t < 4; ++t) plane[r] |= (step[4 * j + t][r] >> 4 & 0x03030303) << 2 * t;
      }
      memcpy(out, plane, 64);
    }
  }
}

template <class T>
void pack_floats(const uint8_t* const row[kTile], int rows, int k, uint8_t* out) {
  T* to = reinterpret_cast<T*>(out);
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < k; ++i) memcpy(&to[static_cast<size_t>(i) * kTile + r], row[r] + i * sizeof(T), sizeof(T));
}

void pack_tile(const Source& s, const Segment& seg, int t) {
  uint8_t* out = const_cast<uint8_t*>(seg.tile(t));
  const size_t stride = stored_row_bytes(s.type, s.k);
  const uint8_t* row[kTile];
  const int rows = s.n - t * kTile < kTile ? s.n - t * kTile : kTile;
  for (int r = 0; r < rows; ++r) row[r] = s.data + (static_cast<size_t>(t) * kTile + r) * stride;
  if (seg.kind == Kind::F32) return pack_floats<uint32_t>(row, rows, s.k, out);
  if (!is_integer(seg.kind)) return pack_floats<uint16_t>(row, rows, s.k, out);
  for (int g = 0; g < s.k / kGroup; ++g) {
    Steps step = {};
    uint32_t q[8];
    for (int r = 0; r < rows; ++r) {
      quants(s.type, row[r], g, reinterpret_cast<uint8_t*>(q));
      for (int i = 0; i < 8; ++i) step[i][r] = q[i];
    }
    pack_planes(seg.kind, step, out + static_cast<size_t>(g) * quant_bytes(seg.kind));
  }
  pack_scales(s.type, row, rows, s.k, const_cast<uint8_t*>(seg.scales(t)));
}

uint8_t quant_at(Kind kind, const uint8_t* group, int r, int i) {
  const int t = i / 4, byte = 4 * r + i % 4;
  if (kind == Kind::I8) return group[64 * t + byte];
  uint8_t q = group[64 * (t / 2) + byte] >> (t % 2 * 4) & 15;
  if (kind == Kind::I5) q |= (group[256 + byte] >> t & 1) << 4;
  if (kind == Kind::I6) q |= (group[256 + 64 * (t / 4) + byte] >> (2 * (t % 4)) & 3) << 4;
  return q;
}

}  // namespace

Stored stored_type(const std::string& name) {
  for (size_t i = 0; i < sizeof kStored / sizeof *kStored; ++i)
    if (name == kStored[i].name) return static_cast<Stored>(i);
  throw std::invalid_argument("unknown stored type '" + name + "'");
}

Kind packed_kind(Stored type) { return info(type).kind; }

const char* kind_name(Kind kind) {
  static const char* names[kKinds] = {"i4", "i5", "i6", "i8", "bf16", "f16", "f32"};
  return names[static_cast<int>(kind)];
}

void decode_stored_row(Stored type, const uint8_t* row, int k, float* out) {
  if (type == Stored::F32) {
    memcpy(out, row, sizeof(float) * k);
  } else if (type == Stored::F16) {
    for (int i = 0; i < k; ++i) out[i] = f16_to_f32(half_at(row, i));
  } else if (type == Stored::BF16) {
    for (int i = 0; i < k; ++i) {
      const uint32_t bits = static_cast<uint32_t>(half_at(row, i)) << 16;
      memcpy(&out[i], &bits, 4);
    }
  }
  if (!is_integer(packed_kind(type))) return;
  uint8_t q[kGroup];
  for (int g = 0; g < k / kGroup; ++g, out += kGroup) {
    quants(type, row, g, q);
    float scale[2] = {}, offset;
    group_values(type, row, g, scale, offset);
    for (int i = 0; i < kGroup; ++i) out[i] = scale[i / 16] * (q[i] - zero_point(packed_kind(type))) - offset;
  }
}

int stored_block(Stored type) { return info(type).block; }

size_t stored_row_bytes(Stored type, int k) {
  return static_cast<size_t>(k / info(type).block) * info(type).bytes;
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

Packed::Packed(const std::vector<Source>& sources) {
  if (sources.empty()) throw std::invalid_argument("nothing to pack");
  k_ = sources[0].k;
  size_t offset = 0;
  for (const Source& s : sources) {
    if (s.n < 1 || s.k < 1 || s.k != k_) throw std::invalid_argument("sizes of packed matrices disagree");
    if (s.k % info(s.type).block)
      throw std::invalid_argument("k is not a multiple of the block of " + std::string(info(s.type).name));
    if (s.bytes != stored_row_bytes(s.type, s.k) * s.n)
      throw std::invalid_argument("bytes given do not match the shape");
    Segment seg;
    seg.kind = info(s.type).kind;
    seg.n = s.n;
    seg.k = s.k;
    seg.tiles = (s.n + kTile - 1) / kTile;
    seg.first = n_;
    seg.tile_bytes = tile_bytes(seg.kind, s.k);
    seg.data = reinterpret_cast<const uint8_t*>(offset);  // made an address below
    offset += seg.tile_bytes * seg.tiles;
    n_ += s.n;
    segments_.push_back(seg);
  }
  // Anonymous memory arrives zeroed, which pads the last tile, and may be backed by huge pages.
  bytes_ = offset;
  mapped_ = (offset + 4095) / 4096 * 4096;
  void* data = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(data);
  madvise(data_, mapped_, MADV_HUGEPAGE);
  for (Segment& seg : segments_) seg.data = data_ + reinterpret_cast<size_t>(seg.data);

  try {
    Pool::Use pool;
    for (size_t i = 0; i < sources.size(); ++i)
      pool->run(segments_[i].tiles, 4, [&](int, Range mine) {
        for (int tile = mine.begin; tile < mine.end; ++tile) pack_tile(sources[i], segments_[i], tile);
      });
  } catch (...) {  // no destructor runs for what was never constructed
    munmap(data_, mapped_);
    throw;
  }
}

Packed::~Packed() {
  if (data_) munmap(data_, mapped_);
}

void Packed::decode_row(int row, float* out) const {
  const Segment* seg = &segments_[0];
  while (row - seg->first >= seg->n) ++seg;
  const int t = (row - seg->first) / kTile, r = (row - seg->first) % kTile;
  const uint8_t* tile = seg->tile(t);
  if (!is_integer(seg->kind)) {
    for (int i = 0; i < k_; ++i) {
      const size_t at = static_cast<size_t>(i) * kTile + r;
      uint32_t bits = 0;
      if (seg->kind == Kind::F32) memcpy(&bits, tile + at * 4, 4);
      if (seg->kind == Kind::BF16) bits = static_cast<uint32_t>(half_at(tile, at)) << 16;
      memcpy(&out[i], &bits, 4);
      if (seg->kind == Kind::F16) out[i] = f16_to_f32(half_at(tile, at));
    }
    return;
  }
  const uint8_t *scales = seg->scales(t), *super = scales + k_ / kGroup * 32;
  for (int g = 0; g < k_ / kGroup; ++g) {
    const uint8_t* group = tile + static_cast<size_t>(g) * quant_bytes(seg->kind);
    const uint8_t* s = scales + g * 32;
    for (int i = 0; i < kGroup; ++i) {
      const int q = quant_at(seg->kind, group, r, i);
      float value;
      if (seg->kind == Kind::I4) {
        const uint8_t* d = super + g / 8 * 64;
        value = f16_to_f32(half_at(d, r)) * s[r] * q - f16_to_f32(half_at(d + 32, r)) * s[kTile + r];
      } else if (seg->kind == Kind::I6) {
        const int8_t scale = static_cast<int8_t>(s[i / 16 * kTile + r]);
        value = f16_to_f32(half_at(super + g / 8 * 32, r)) * scale * (q - zero_point(Kind::I6));
      } else {
        value = f16_to_f32(half_at(s, r)) * (q - zero_point(seg->kind));
      }
      out[g * kGroup + i] = value;
    }
  }
}

}  // namespace qwick
