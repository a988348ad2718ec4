// Memory of packed matrices, the threads that fill it, and the way back to numbers; pack.cpp moves the bits.
#include "packed.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <new>
#include <stdexcept>
#include <system_error>

#include "blocks.h"
#include "pack.h"
#include "pool.h"

namespace qwick {
namespace {

constexpr size_t kPageBytes = 4096, kHugeBytes = size_t{2} << 20;
constexpr size_t kWorkBytes = size_t{1} << 20;  // stored bytes that one thread packs at a time
constexpr size_t kSlice = 32;                   // of these between two looks ahead
constexpr int kPopulateRead = 22;               // MADV_POPULATE_READ, Linux 5.14
constexpr size_t kAroundBytes = 64 << 10;       // fault_around_bytes of Linux, unless somebody has set it
constexpr size_t kAskBytes = 128 << 10;         // of a file at a time: Linux reads no more ahead than a device's read_ahead_kb

size_t tile_bytes(Kind kind, int k) {
  size_t bytes = static_cast<size_t>(k) * kTile * float_bytes(kind);
  if (is_integer(kind))
    bytes = static_cast<size_t>(k / kGroup) * (quant_bytes(kind) + scale_bytes(kind)) + k / kSuper * super_bytes(kind);
  return (bytes + 63) / 64 * 64;
}

// Advice only: a system that does not take it, or a page that two sources share, costs time and nothing else.
void advise(const uint8_t* begin, const uint8_t* end, int advice) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(begin) / kPageBytes * kPageBytes;
  madvise(reinterpret_cast<void*>(from), reinterpret_cast<uintptr_t>(end) - from, advice);
}

float half_value(const uint8_t* p, int i) { return f16_to_f32(half_at(p, i)); }

// Quant i of row r of a group of a tile.
int quant_at(Kind kind, const uint8_t* group, int r, int i) {
  const int t = i / 4, byte = 4 * r + i % 4, bits = quant_bits(kind);
  const auto two_bits = [&](int plane) { return group[64 * (plane + t / 4) + byte] >> 2 * (t % 4) & 3; };
  const auto one_bit = [&](int plane) { return group[64 * plane + byte] >> t & 1; };
  if (bits == 8) return group[64 * t + byte];
  if (bits < 4) return two_bits(0) | (bits == 3 ? one_bit(2) << 2 : 0);
  const int low = group[64 * (t / 2) + byte] >> t % 2 * 4 & 15;
  if (from_table(kind)) return table_of(kind)[low];
  return low | (bits == 5 ? one_bit(4) << 4 : bits == 6 ? two_bits(4) << 4 : 0);
}

// What the quants of row r are multiplied with, and what is subtracted; half: of the group (kinds.h).
void scales_at(Kind kind, const uint8_t* s, const uint8_t* super, int r, int half, float& scale, float& offset) {
  const int h = halves(kind) > 1 ? half : 0;
  offset = 0;
  switch (scaling(kind)) {
    case Scaling::One: scale = half_value(s, r); break;
    case Scaling::Minimum:
      scale = half_value(s, r);
      offset = -half_value(s, kTile + r);
      break;
    case Scaling::Zero:
      scale = half_value(s, r);
      offset = scale * s[2 * kTile + r];
      break;
    case Scaling::Power: scale = half_power(s[r]); break;
    case Scaling::Signed: scale = half_value(super, r) * static_cast<int8_t>(s[h * kTile + r]); break;
    case Scaling::Levels: {
      const bool nibbles = halves(kind) > 1;
      scale = half_value(super, r) * (nibbles ? s[h * kTile + r] & 15 : s[r]);
      offset = half_value(super, kTile + r) * (nibbles ? s[h * kTile + r] >> 4 : s[kTile + r]);
      break;
    }
  }
}

}  // namespace

const char* kind_name(Kind kind) {
  static const char* names[kKinds] = {"i2k", "i3s", "i4",  "i4m", "i4k", "i4n", "i4ns", "i4z",  "i4f",
                                      "i4e", "i5",  "i5m", "i5k", "i6s", "i8",  "bf16", "f16", "f32"};
  return names[static_cast<int>(kind)];
}

// ---- packing --------------------------------------------------------------------------------------------

namespace {

// Zeroed memory that begins at a multiple of `alignment`; null where there is none.
uint8_t* reserve(size_t bytes, size_t alignment, int protection) {
  const size_t room = alignment - kPageBytes;
  void* data = mmap(nullptr, bytes + room, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  auto* begin = static_cast<uint8_t*>(data);
  const size_t before = (alignment - reinterpret_cast<uintptr_t>(begin) % alignment) % alignment;
  if (before) munmap(begin, before);
  if (room > before) munmap(begin + before + bytes, room - before);
  return begin + before;
}

size_t whole_pages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

}  // namespace

Tiles::Tiles(size_t bytes) : bytes_(whole_pages(bytes)) {
  const bool huge = bytes_ >= kHugeBytes;  // where there is one to fill
  data_ = reserve(bytes_, huge ? kHugeBytes : kPageBytes, PROT_READ | PROT_WRITE);
  if (!data_) throw std::bad_alloc();
  if (huge) madvise(data_, bytes_, MADV_HUGEPAGE);
}

Tiles::Tiles(int file, size_t bytes) : bytes_(whole_pages(bytes)) {
  // What Linux maps around a page that is read is the same part of the address space as of the file.
  data_ = reserve(bytes_, kAroundBytes, PROT_NONE);
  if (!data_) throw std::bad_alloc();
  if (mmap(data_, bytes_, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
    const int error = errno;
    munmap(data_, bytes_);
    throw std::system_error(error, std::generic_category(), "mmap");
  }
  // Nothing beside what is asked for shall be brought in: by huge pages, or read ahead of a fault.
  madvise(data_, bytes_, MADV_NOHUGEPAGE);
  madvise(data_, bytes_, MADV_RANDOM);
}

Tiles::~Tiles() { munmap(data_, bytes_); }

void Tiles::ask(size_t begin, size_t bytes) const {
  for (const size_t end = begin + bytes; begin < end; begin += kAskBytes)
    advise(data_ + begin, data_ + std::min(begin + kAskBytes, end), MADV_WILLNEED);
}

void Tiles::give_back(size_t begin, size_t bytes) const { advise(data_ + begin, data_ + begin + bytes, MADV_DONTNEED); }

Packed::Packed(const std::vector<Source>& sources) {
  if (sources.empty()) throw std::invalid_argument("nothing to pack");
  k_ = sources[0].k;
  for (const Source& s : sources) {
    if (s.n < 1 || s.k < 1 || s.k != k_) throw std::invalid_argument("sizes of packed matrices disagree");
    if (s.k % stored_block(s.type))
      throw std::invalid_argument("k is not a multiple of the block of " + std::string(stored_name(s.type)));
    if (s.bytes != stored_row_bytes(s.type, s.k) * s.n)
      throw std::invalid_argument("bytes given do not match the shape");
    Segment seg;
    seg.kind = packed_kind(s.type);
    seg.n = s.n;
    seg.k = s.k;
    seg.tiles = (s.n + kTile - 1) / kTile;
    seg.first = n_;
    seg.tile_bytes = tile_bytes(seg.kind, s.k);
    seg.data = reinterpret_cast<const uint8_t*>(bytes_);
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
      pack_tile(*source, *segment, t, row_bytes, stored_block_bytes(source->type), const_cast<uint8_t*>(segment->tile(t)));
  }

 private:
  const uint8_t* row(int r) const { return source->data + r * stored_row_bytes(source->type, source->k); }
};

void add_work(const Source& s, const Segment& seg, std::vector<Work>& works) {
  const size_t stored = stored_row_bytes(s.type, s.k) * kTile;
  const int each = stored < kWorkBytes ? static_cast<int>(kWorkBytes / stored) : 1;
  for (int t = 0; t < seg.tiles; t += each)
    works.push_back({&s, &seg, t, t + each < seg.tiles ? t + each : seg.tiles});
}

// Packs each matrix where it has been placed.
void fill(const std::vector<std::unique_ptr<Packed>>& all, const std::vector<std::vector<Source>>& matrices, bool mapped) {
  std::vector<Work> works;
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < matrices[i].size(); ++j) add_work(matrices[i][j], all[i]->segments()[j], works);
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
}

}  // namespace

void Packed::place(const uint8_t* at) {
  for (Segment& seg : segments_) seg.data = at + reinterpret_cast<size_t>(seg.data);
}

std::vector<std::unique_ptr<Packed>> Packed::placed(const std::vector<std::vector<Source>>& matrices,
                                                    const std::vector<size_t>& offsets, const uint8_t* at, size_t bytes) {
  if (offsets.size() != matrices.size()) throw std::invalid_argument("each matrix must have an offset");
  std::vector<std::unique_ptr<Packed>> all;
  size_t end = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    all.emplace_back(new Packed(matrices[i]));
    if (offsets[i] % 64 || offsets[i] < end || offsets[i] > bytes || all[i]->bytes_ > bytes - offsets[i])
      throw std::invalid_argument("matrices must lie one after the other, at multiples of 64, within the memory given");
    end = offsets[i] + all[i]->bytes_;
    all[i]->place(at + offsets[i]);
  }
  return all;
}

std::vector<std::unique_ptr<Packed>> Packed::pack(const std::vector<std::vector<Source>>& matrices, bool mapped) {
  std::vector<size_t> offsets;
  size_t bytes = 0;
  for (const auto& sources : matrices) {
    offsets.push_back(bytes);
    bytes += bytes_of(sources);
  }
  if (matrices.empty()) return {};
  const auto tiles = std::make_shared<Tiles>(bytes);
  auto all = placed(matrices, offsets, tiles->data(), bytes);
  for (auto& one : all) one->tiles_ = tiles;
  fill(all, matrices, mapped);
  return all;
}

void Packed::pack_to(const std::vector<std::vector<Source>>& matrices, const std::vector<size_t>& offsets, uint8_t* out,
                     size_t bytes, bool mapped) {
  const auto all = placed(matrices, offsets, out, bytes);
  memset(out, 0, bytes);
  fill(all, matrices, mapped);
}

std::vector<std::unique_ptr<Packed>> Packed::at(const std::vector<std::vector<Source>>& matrices,
                                                const std::vector<size_t>& offsets, std::shared_ptr<const Tiles> tiles,
                                                size_t bytes) {
  auto all = placed(matrices, offsets, tiles->data(), bytes);
  for (auto& one : all) one->tiles_ = tiles;
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
  const Kind kind = seg->kind;
  for (int g = 0; g < k_ / kGroup; ++g) {
    const uint8_t* group = tile + static_cast<size_t>(g) * quant_bytes(kind);
    const uint8_t *s = seg->scales(t) + static_cast<size_t>(g) * scale_bytes(kind), *super = seg->supers(t) + g / 8 * super_bytes(kind);
    for (int i = 0; i < kGroup; ++i) {
      float scale, offset;
      scales_at(kind, s, super, r, i / 16, scale, offset);
      out[g * kGroup + i] = scale * (quant_at(kind, group, r, i) - zero_point(kind)) - offset;
    }
  }
}

}  // namespace qwick
