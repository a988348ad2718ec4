// Packed matrices: stored blocks laid out as tiles (kinds.h). ISA-free.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "stored.h"

namespace qwick {

struct Source {            // one stored matrix, rows of whole blocks
  Stored type;
  const uint8_t* data;
  size_t bytes;
  int n, k;
};

const char* kind_name(Kind kind);

// Zeroed memory for the tiles of one or several matrices, on huge pages where the system has them.
class Tiles {
 public:
  explicit Tiles(size_t bytes);  // throws std::bad_alloc
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles();

  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
  size_t bytes_;
};

class Packed {
 public:
  // One Packed for each list of sources, which share k and lie one below the other. All are packed together, by all
  // threads, into one memory, which lives as long as any of them.
  // mapped: the sources are a file mapped for reading only. What lies ahead is then asked for in time, and what was
  // packed is given back at once: the memory holds one copy of the weights, not two.
  // Throws std::invalid_argument when sizes disagree, std::bad_alloc when memory is short.
  static std::vector<std::unique_ptr<Packed>> pack(const std::vector<std::vector<Source>>& matrices, bool mapped);

  int n() const { return n_; }
  int k() const { return k_; }
  size_t bytes() const { return bytes_; }  // of tiles
  const std::vector<Segment>& segments() const { return segments_; }

  // Says which matrix is read after this one (pairs: by matmul_swiglu), so that its beginning can be asked for in time.
  void set_next(const Packed& next, bool pairs);
  Ahead next_part(int thread, int threads) const;  // what `thread` will read first of it

  void decode_row(int row, float* out) const;  // out: [k]

 private:
  Packed(const std::vector<Source>& sources, size_t offset);  // segments at offsets, not yet in memory

  int n_ = 0, k_ = 0;
  size_t bytes_ = 0;
  std::vector<Segment> segments_;
  std::shared_ptr<Tiles> tiles_;
  std::vector<Segment> next_;
  std::shared_ptr<Tiles> next_tiles_;
  bool next_pairs_ = false;
};

}  // namespace qwick
