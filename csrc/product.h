// Products of packed matrices with rows, cut into items: what the drivers are made of. Knows no Python and no experts.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "packed.h"
#include "pool.h"

namespace qwick {

// Buffers of the pool, one for each purpose that exists at the same time.
enum Slot { kActivations, kInner, kInnerFloats, kPanels, kAttention, kPartial, kGathered, kResults };

// Work below this many elements is done by the calling thread: waking the others costs more.
constexpr size_t kWorthSharing = 16384;

inline size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Whether the rows of prompts, or so many of answers, go the other way (`Kernels::matmul_many`).
bool takes_many(int m, bool prompt);
// The forms of x, but for the floats themselves, that the kernels of w's classes read.
unsigned forms_of(const Packed& w, bool many);

// Rows with room for the forms asked for, of `form_bytes` at `at`.
size_t form_bytes(int m, int k, unsigned forms);
Rows place_rows(uint8_t* at, const float* x, int m, int k, unsigned forms);
// The blocks b0..b1-1 of kRowBlock rows into the forms asked for.
inline int row_blocks(const Rows& rows) { return (rows.m + kRowBlock - 1) / kRowBlock; }
inline void prepare_blocks(const Rows& rows, int b0, int b1, unsigned forms) {
  kernels().prepare(rows, b0 * kRowBlock, std::min(b1 * kRowBlock, rows.m), forms);
}

// What each thread needs besides: what `matmul_many` asks for, then `extra` bytes of the driver's own.
struct Panels {
  uint8_t* at = nullptr;
  size_t apart = 0, extra = 0;

  // For products of up to m rows of up to k columns.
  Panels(Pool& pool, bool many, int m, int k, size_t extra);
  void* panel(int thread) const { return at + thread * apart; }
  float* own(int thread) const { return reinterpret_cast<float*>(at + (thread + 1) * apart - extra); }
};

// Rows that are prepared, to be multiplied.
struct Product {
  const Rows& rows;
  bool many;  // `matmul_many` takes it
  const Panels& panels;

  // The rows r0..r1-1; r0 begins a block. Where panels are made: all rows, or they would be made again.
  void tiles(int thread, const Segment& s, int t0, int t1, int r0, int r1, const Output& out) const;
};

// The tiles of a matrix in items of `each`, segment after segment.
class TileItems {
 public:
  // An item is some tiles, because panels are made side by side, but not so many that threads end apart.
  TileItems(const Packed& w, bool many, int threads);
  int count() const { return count_; }
  // visit(segment, t0, t1) for what the items of `mine` hold.
  template <class Visit>
  void each(Range mine, const Visit& visit) const {
    for (size_t i = 0; i < first_.size(); ++i) {
      const Segment& s = w_.segments()[i];
      const int t0 = std::max(0, mine.begin - first_[i]) * each_;
      const int t1 = std::min((mine.end - first_[i]) * each_, s.tiles);
      if (t0 < t1) visit(s, t0, t1);
    }
  }

 private:
  const Packed& w_;
  int each_, count_ = 0;
  std::vector<int> first_;
};

// Gate and up meet while they are in the cache: their product, twice as wide as what is wanted, never reaches memory.
// Nor does what comes of them, where `down` reads 8 bits: `inner` takes it in that form. Else it goes to `floats`.
class GateAndUp {
 public:
  GateAndUp(const Packed& w) : gate_(w.segments()[0]), up_(w.segments()[1]) {}
  int count() const { return (gate_.tiles + kTiles - 1) / kTiles; }
  // What a thread needs of its own for m rows.
  static size_t own_bytes(int m, bool many) { return static_cast<size_t>(many ? m : std::min(m, kRows)) * 2 * kWidth * sizeof(float); }
  void items(const Product& product, int thread, Range mine, const Rows& inner, float* floats) const;

 private:
  static constexpr int kTiles = 4, kWidth = kTiles * kTile;  // of each, and their columns
  static constexpr int kRows = 64;                           // at a time, where no panels are made
  static_assert(kWidth % kGroup == 0 && kRows % kRowBlock == 0);
  const Segment gate_, up_;
};

// What a layer's feed-forward part gets in between: the forms of what comes of gate and up, for `down`.
struct InnerForms {
  unsigned forms;
  bool direct;  // 8 bits, and nobody reads the floats
  InnerForms(const Packed& down, bool many);
};

// "matmul 9728x896 i5+i5", and what it moves at least: each weight once, x and y once.
std::string label_of(const char* what, const Packed& w);
double product_bytes(const Packed& w, int m, int outputs);
double product_operations(const Packed& w, int m);

}  // namespace qwick
