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

constexpr int kPacking = 1;  // counts the changes of a tile's bytes (kinds.h): tiles are kept in files

struct Source {            // one stored matrix, rows of whole blocks
  Stored type;
  const uint8_t* data;
  size_t bytes;
  int n, k;
};

const char* kind_name(Kind kind);

// Memory for the tiles of one or several matrices.
class Tiles {
 public:
  explicit Tiles(size_t bytes);   // zeroed, on huge pages where the system has them; throws std::bad_alloc
  Tiles(int file, size_t bytes);  // the beginning of a file, only to be read; throws those, or std::system_error
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles();

  uint8_t* data() const { return data_; }
  // Of a file: begins to read what is about to be used; lets pages leave this process, which come again when they are read.
  void ask(size_t begin, size_t bytes) const;
  void give_back(size_t begin, size_t bytes) const;

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
  // Their tiles alone, to be kept: each at its offset of out [bytes], a multiple of 64. What lies between becomes zero.
  // Throws std::invalid_argument too where they do not fit there, one after the other.
  static void pack_to(const std::vector<std::vector<Source>>& matrices, const std::vector<size_t>& offsets, uint8_t* out,
                      size_t bytes, bool mapped);
  // What `pack_to` has written into these bytes; of the sources all but the data is looked at.
  static std::vector<std::unique_ptr<Packed>> at(const std::vector<std::vector<Source>>& matrices,
                                                 const std::vector<size_t>& offsets, std::shared_ptr<const Tiles> tiles,
                                                 size_t bytes);
  static size_t bytes_of(const std::vector<Source>& sources) { return Packed(sources).bytes_; }

  int n() const { return n_; }
  int k() const { return k_; }
  size_t bytes() const { return bytes_; }  // of tiles
  const std::vector<Segment>& segments() const { return segments_; }

  // Says which matrix is read after this one (pairs: by matmul_swiglu), so that its beginning can be asked for in time.
  void set_next(const Packed& next, bool pairs);
  Ahead next_part(int thread, int threads) const;  // what `thread` will read first of it

  void decode_row(int row, float* out) const;  // out: [k]

 private:
  explicit Packed(const std::vector<Source>& sources);  // segments at offsets, not yet in memory
  void place(const uint8_t* at);                        // which makes the offsets addresses
  static std::vector<std::unique_ptr<Packed>> placed(const std::vector<std::vector<Source>>& matrices,
                                                     const std::vector<size_t>& offsets, const uint8_t* at, size_t bytes);

  int n_ = 0, k_ = 0;
  size_t bytes_ = 0;
  std::vector<Segment> segments_;
  std::shared_ptr<const Tiles> tiles_;
  std::vector<Segment> next_;
  std::shared_ptr<const Tiles> next_tiles_;
  bool next_pairs_ = false;
};

}  // namespace qwick
