// What native code sees of a file's bytes, under a coverage-guided fuzzer (libFuzzer): packing and its way back
// (QWICK_TARGET 1), and the tables of byte pair encoding (QWICK_TARGET 2). Built and run by checks/fuzz_native.sh.
// A crash, a report of a sanitizer, an exception other than std::invalid_argument, or an answer that contradicts its
// definition ends the run; libFuzzer writes the input down.
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bpe.h"
#include "packed.h"
#include "pool.h"

namespace {

using namespace qwick;

void require(bool ok) {
  if (!ok) abort();
}

// Takes numbers off the front of the input; zeros once it has ended.
struct Input {
  const uint8_t* data;
  size_t size;

  uint64_t number(size_t bytes) {
    uint64_t value = 0;
    const size_t taken = bytes < size ? bytes : size;
    memcpy(&value, data, taken);
    data += taken;
    size -= taken;
    return value;
  }
};

// A copy of exactly so many bytes on the heap, so that a byte read too much is seen.
std::unique_ptr<uint8_t[]> exactly(const uint8_t* data, size_t size) {
  auto copy = std::make_unique<uint8_t[]>(size);
  if (size) memcpy(copy.get(), data, size);
  return copy;
}

#if QWICK_TARGET == 1

const char* const kTypes[] = {QWICK_STORED};  // from quant/types.py, so that a new type is met at once

bool same(float a, float b) {
  uint32_t x, y;
  memcpy(&x, &a, 4);
  memcpy(&y, &b, 4);
  return x == y || (a != a && b != b) || (a == 0 && b == 0);
}

// Shapes that fit the bytes are packed and read back; any other must be refused.
void pack_sound(Input in) {
  const Stored type = stored_type(kTypes[in.number(1) % (sizeof kTypes / sizeof *kTypes)]);
  const int k = stored_block(type) * static_cast<int>(1 + in.number(1) % 12), parts = 1 + in.number(1) % 3;
  const size_t row = stored_row_bytes(type, k);
  const int n = 1 + static_cast<int>(in.number(1) % 40);
  std::vector<std::unique_ptr<uint8_t[]>> held;
  std::vector<Source> sources;
  for (int i = 0; i < parts; ++i) {
    const size_t bytes = row * n;
    auto copy = std::make_unique<uint8_t[]>(bytes);
    for (size_t at = 0; at < bytes && in.size; at += in.size) memcpy(copy.get() + at, in.data, std::min(in.size, bytes - at));
    sources.push_back({type, copy.get(), bytes, n, k});
    held.push_back(std::move(copy));
  }
  const auto packed = Packed::pack({sources, {sources[0]}}, false);
  require(packed.size() == 2 && packed[0]->n() == n * parts && packed[0]->k() == k);
  packed[0]->set_next(*packed[1], in.number(1) & 1);
  packed[0]->next_part(0, 1);
  std::vector<float> from_packed(k), from_stored(k);
  for (int i = 0; i < n * parts; ++i) {
    packed[0]->decode_row(i, from_packed.data());
    decode_stored_row(type, sources[i / n].data + i % n * row, k, from_stored.data());
    for (int j = 0; j < k; ++j) require(same(from_packed[j], from_stored[j]));
  }
}

void pack_hostile(Input in) {
  std::vector<std::vector<Source>> matrices(in.number(1) % 4);
  std::vector<std::unique_ptr<uint8_t[]>> held;
  for (auto& sources : matrices) {
    sources.resize(in.number(1) % 4);
    for (Source& s : sources) {
      s.type = stored_type(kTypes[in.number(1) % (sizeof kTypes / sizeof *kTypes)]);
      s.n = static_cast<int>(in.number(4));
      s.k = static_cast<int>(in.number(4));
      const size_t wanted = in.number(2);
      s.bytes = std::min(wanted, in.size);
      held.push_back(exactly(in.data, s.bytes));
      s.data = held.back().get();
    }
  }
  try {
    for (const auto& packed : Packed::pack(matrices, false)) {
      std::vector<float> row(packed->k());
      for (int i = 0; i < packed->n(); ++i) packed->decode_row(i, row.data());
    }
  } catch (const std::invalid_argument&) {
  }
}

void run(Input in) { in.number(1) & 1 ? pack_sound(in) : pack_hostile(in); }

#else

// Strings as a GGUF file has them, their starts as the reader found them, or as nobody should have.
struct Table {
  std::unique_ptr<uint8_t[]> bytes;
  std::unique_ptr<int64_t[]> starts;
  Strings strings;

  Table(Input& in, bool hostile) {
    const size_t most = 1 + in.number(1), wanted_size = in.number(2), size = std::min(wanted_size, in.size);
    std::vector<uint8_t> data;
    std::vector<int64_t> found;
    const uint8_t* end = in.data + size;
    while (in.data < end && found.size() < most) {
      found.push_back(static_cast<int64_t>(data.size()));
      const uint64_t wanted = in.number(1) % 12;
      const uint64_t length = std::min<uint64_t>(wanted, static_cast<uint64_t>(end - in.data));
      data.resize(data.size() + 8);
      memcpy(&data[data.size() - 8], &length, 8);
      data.insert(data.end(), in.data, in.data + length);
      in.data += length;
      in.size -= length;
    }
    if (hostile && !data.empty()) {
      const size_t at = in.number(2) % data.size();
      const uint64_t value = in.number(8);
      memcpy(&data[at], &value, std::min<size_t>(8, data.size() - at));
      found[in.number(1) % found.size()] = static_cast<int64_t>(in.number(8));
    }
    bytes = exactly(data.data(), data.size());
    starts = std::make_unique<int64_t[]>(found.size());
    std::copy(found.begin(), found.end(), starts.get());
    strings = {bytes.get(), data.size(), starts.get(), found.size()};
  }
};

void run(Input in) {
  const bool hostile = in.number(1) & 1;
  const Table tokens(in, hostile), merges(in, hostile);
  try {
    const Bpe bpe(tokens.strings, merges.strings);
    require(bpe.size() == tokens.strings.count);
    for (size_t i = 0; i < bpe.size(); ++i) require(bpe.token(i).size() <= tokens.strings.bytes);
    const auto rest = exactly(in.data, in.size);
    const std::string_view words(reinterpret_cast<const char*>(rest.get()), in.size);
    size_t written = 0;
    for (const int32_t id : bpe.encode(words)) {
      require(id >= 0 && static_cast<size_t>(id) < bpe.size());
      written += bpe.token(id).size();
    }
    require(written <= words.size());
  } catch (const std::invalid_argument&) {
  }
}

#endif

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  qwick::Pool::set_threads(1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  run({data, size});
  return 0;
}
