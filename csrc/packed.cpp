// Memory of packed matrices, the threads that fill it, and the way back to numbers; pack.cpp moves the bits.
#include "packed.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <new>
#include <stdexcept>

#include "blocks.h"
#include "pack.h"
#include "pool.h"

namespace qwick {
namespace {

constexpr size_t kPageBytes = 4096, kHugeBytes = size_t{2} << 20;
constexpr size_t kWorkBytes = size_t{1} << 20;  // stored bytes that one thread packs at a time
constexpr size_t kSlice = 32;                   // of these between two looks ahead
constexpr int kPopulateRead = 22;               // MADV_POPULATE_READ, Linux 5.14

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

// ---- packing --------------------------------------------------------------------------------------------

Tiles::Tiles(size_t bytes) : bytes_((bytes + kPageBytes - 1) / kPageBytes * kPageBytes) {
  // Room to begin at a huge page, where there is one to fill; anonymous memory arrives zeroed.
  const size_t room = bytes_ < kHugeBytes ? 0 : kHugeBytes;
  void* data = mmap(nullptr, bytes_ + room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(data);
  if (!room) return;
  const size_t before = (kHugeBytes - reinterpret_cast<uintptr_t>(data_) % kHugeBytes) % kHugeBytes;
  if (before) munmap(data_, before);
  munmap(data_ + before + bytes_, room - before);
  data_ += before;
  madvise(data_, bytes_, MADV_HUGEPAGE);
}

Tiles::~Tiles() { munmap(data_, bytes_); }

Packed::Packed(const std::vector<Source>& sources, size_t offset) {
  if (sources.empty()) throw std::invalid_argument("nothing to pack");
  k_ = sources[0].k;
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
    seg.data = reinterpret_cast<const uint8_t*>(offset + bytes_);  // made an address by `pack`
    bytes_ += seg.tile_bytes * seg.tiles;
    n_ += s.n;
    segments_.push_back(seg);
  }
}

namespace {

struct Work {  // tiles t0..t1-1 of a source
  const Source* source;
  const Segment* segment;
  int t0, t1;

  const uint8_t* begin() const { return row(t0 * kTile); }
  const uint8_t* end() const { return row(t1 * kTile < source->n ? t1 * kTile : source->n); }
  void run() const {
    const size_t row_bytes = stored_row_bytes(source->type, source->k);
    for (int t = t0; t < t1; ++t)
      pack_tile(*source, *segment, t, row_bytes, info(source->type).bytes, const_cast<uint8_t*>(segment->tile(t)));
  }

 private:
  const uint8_t* row(int r) const { return source->data + r * stored_row_bytes(source->type, source->k); }
};

// Advice only: a system that does not take it, or a page that two sources share, costs time and nothing else.
void advise(const uint8_t* begin, const uint8_t* end, int advice) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(begin) / kPageBytes * kPageBytes;
  madvise(reinterpret_cast<void*>(from), reinterpret_cast<uintptr_t>(end) - from, advice);
}

void add_work(const Source& s, const Segment& seg, std::vector<Work>& works) {
  const size_t stored = stored_row_bytes(s.type, s.k) * kTile;
  const int each = stored < kWorkBytes ? static_cast<int>(kWorkBytes / stored) : 1;
  for (int t = 0; t < seg.tiles; t += each)
    works.push_back({&s, &seg, t, t + each < seg.tiles ? t + each : seg.tiles});
}

}  // namespace

std::vector<std::unique_ptr<Packed>> Packed::pack(const std::vector<std::vector<Source>>& matrices, bool mapped) {
  std::vector<std::unique_ptr<Packed>> all;
  size_t bytes = 0;
  for (const auto& sources : matrices) {
    all.emplace_back(new Packed(sources, bytes));
    bytes += all.back()->bytes_;
  }
  if (all.empty()) return all;
  const auto tiles = std::make_shared<Tiles>(bytes);
  std::vector<Work> works;
  for (size_t i = 0; i < all.size(); ++i) {
    all[i]->tiles_ = tiles;
    for (size_t j = 0; j < matrices[i].size(); ++j) {
      Segment& seg = all[i]->segments_[j];
      seg.data = tiles->data() + reinterpret_cast<size_t>(seg.data);
      add_work(matrices[i][j], seg, works);
    }
  }
  // In the order of the file, one slice after the other: while one is packed the next is read, and between two the
  // pool is free for others.
  const auto lies_before = [](const Work& a, const Work& b) { return std::less<>()(a.begin(), b.begin()); };
  std::sort(works.begin(), works.end(), lies_before);
  for (size_t at = 0; at < works.size(); at += kSlice) {
    const size_t next = std::min(at + kSlice, works.size()), last = std::min(next + kSlice, works.size());
    for (size_t i = at ? next : 0; mapped && i < last; ++i) advise(works[i].begin(), works[i].end(), MADV_WILLNEED);
    Pool::Use pool;
    pool->run(static_cast<int>(next - at), 1, [&](int, Range mine) {
      for (int i = mine.begin; i < mine.end; ++i) {
        const Work& work = works[at + i];
        if (mapped) advise(work.begin(), work.end(), kPopulateRead);
        work.run();
        if (mapped) advise(work.begin(), work.end(), MADV_DONTNEED);
      }
    });
    // Once more, for the pages around a fault that the system maps unasked, some of which were given back already.
    for (size_t i = at; mapped && i < next; ++i) advise(works[i].begin(), works[i].end(), MADV_DONTNEED);
  }
  return all;
}

void Packed::set_next(const Packed& next, bool pairs) {
  next_ = next.segments_;
  next_tiles_ = next.tiles_;
  next_pairs_ = pairs && next_.size() == 2;
}

Ahead Packed::next_part(int thread, int threads) const {
  constexpr size_t kPart = 64 << 10;  // of the second cache, per thread
  if (next_.empty()) return {};
  auto begin = [&](const Segment& s) { return s.tile(static_cast<int>(static_cast<int64_t>(s.tiles) * thread / threads)); };
  if (next_pairs_) return {{begin(next_[0]), begin(next_[1])}, kPart / 2};
  int tiles = 0;
  for (const Segment& s : next_) tiles += s.tiles;
  int t = static_cast<int>(static_cast<int64_t>(tiles) * thread / threads);
  const Segment* s = &next_[0];
  while (t >= s->tiles) t -= s++->tiles;
  return {{s->tile(t), nullptr}, kPart};
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
