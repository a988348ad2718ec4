// Packed matrices: stored blocks (GGUF types and plain floats) laid out as tiles (kernels.h). ISA-free.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"

namespace qwick {

enum class Stored : int { F32, F16, BF16, Q4_K, Q5_0, Q6_K, Q8_0 };

struct Source {            // one stored matrix, rows of whole blocks
  Stored type;
  const uint8_t* data;
  size_t bytes;
  int n, k;
};

// Name as GGUF spells it, lower case ("q5_0"); throws std::invalid_argument for another.
Stored stored_type(const std::string& name);
Kind packed_kind(Stored type);
const char* kind_name(Kind kind);
size_t stored_row_bytes(Stored type, int k);
int stored_block(Stored type);  // k per block
void decode_stored_row(Stored type, const uint8_t* row, int k, float* out);  // out: [k]

class Packed {
 public:
  // Packs the sources one below the other: they share k and their outputs lie side by side.
  // Throws std::invalid_argument when sizes disagree, std::bad_alloc when memory is short.
  explicit Packed(const std::vector<Source>& sources);
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  ~Packed();

  int n() const { return n_; }
  int k() const { return k_; }
  size_t bytes() const { return bytes_; }  // of tiles
  const std::vector<Segment>& segments() const { return segments_; }

  void decode_row(int row, float* out) const;  // out: [k]

 private:
  int n_ = 0, k_ = 0;
  size_t bytes_ = 0, mapped_ = 0;
  uint8_t* data_ = nullptr;
  std::vector<Segment> segments_;
};

float f16_to_f32(uint16_t h);

}  // namespace qwick
