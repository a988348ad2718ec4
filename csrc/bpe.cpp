#include "bpe.h"

#include <string.h>

#include <algorithm>
#include <random>
#include <stdexcept>

namespace qwick {
namespace {

constexpr uint32_t kCharacters = 512;  // the alphabet of byte-level BPE ends at U+0143
constexpr uint64_t kMix = 0x9e3779b97f4a7c15;

uint64_t mixed(uint64_t h) {
  h *= kMix;
  return h ^ h >> 32;
}

size_t table_size(size_t entries) {
  size_t size = 16;
  while (size < entries + entries / 2) size *= 2;
  return size;
}

std::string_view string_at(const Strings& s, size_t i, const char* what) {
  const auto fail = [&] {
    throw std::invalid_argument(std::string(what) + " " + std::to_string(i) + " lies outside the data");
  };
  const uint64_t at = static_cast<uint64_t>(s.starts[i]);
  uint64_t length;
  if (at > s.bytes || s.bytes - at < sizeof length) fail();
  memcpy(&length, s.data + at, sizeof length);
  if (s.bytes - at - sizeof length < length) fail();
  return {reinterpret_cast<const char*>(s.data) + at + sizeof length, length};
}

// Bytes of the character that begins at s[i], 0 if it is not one of UTF-8 (RFC 3629, section 4).
size_t character(std::string_view s, size_t i) {
  const auto byte = [&](size_t j) { return i + j < s.size() ? static_cast<uint8_t>(s[i + j]) : 0u; };
  const auto follows = [&](size_t j, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(j) >= low && byte(j) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef)
    return follows(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf) && follows(2) ? 3 : 0;
  if (first >= 0xf0 && first <= 0xf4)
    return follows(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf) && follows(2) && follows(3) ? 4 : 0;
  return 0;
}

bool is_utf8(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const size_t length = character(s, i);
    if (!length) return false;
    i += length;
  }
  return true;
}

}  // namespace

Bpe::Bpe(const Strings& tokens, const Strings& merges) {
  std::random_device entropy;
  seed_ = static_cast<uint64_t>(entropy()) << 32 | entropy();
  add_tokens(tokens);
  add_merges(merges);
}

uint64_t Bpe::hash(std::string_view s) const {
  uint64_t h = seed_ ^ s.size();
  const char* p = s.data();
  size_t left = s.size();
  for (; left > 8; left -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    h = mixed(h ^ word);
  }
  uint64_t word = 0;
  memcpy(&word, p, left);
  return mixed(h ^ word);
}

int32_t Bpe::find(std::string_view s) const {
  const size_t mask = tokens_.size() - 1;
  for (size_t at = hash(s) & mask;; at = (at + 1) & mask) {
    const int32_t id = tokens_[at];
    if (id < 0 || token(id) == s) return id;
  }
}

const Bpe::Merge* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  const size_t mask = merges_.size() - 1;
  for (size_t at = mixed(seed_ ^ pair) & mask;; at = (at + 1) & mask) {
    const Merge& merge = merges_[at];
    if (merge.made < 0 || merge.pair == pair) return &merge;
  }
}

void Bpe::add_tokens(const Strings& tokens) {
  if (tokens.count >= INT32_MAX) throw std::invalid_argument("there are too many tokens");
  starts_.reserve(tokens.count + 1);
  for (size_t i = 0; i < tokens.count; ++i) {
    const std::string_view s = string_at(tokens, i, "token");
    if (!is_utf8(s)) throw std::invalid_argument("token " + std::to_string(i) + " is not UTF-8");
    if (text_.size() + s.size() > UINT32_MAX) throw std::invalid_argument("the tokens are too long");
    starts_.push_back(static_cast<uint32_t>(text_.size()));
    text_ += s;
  }
  starts_.push_back(static_cast<uint32_t>(text_.size()));
  tokens_.assign(table_size(tokens.count), -1);
  const size_t mask = tokens_.size() - 1;
  for (size_t i = 0; i < tokens.count; ++i) {
    size_t at = hash(token(i)) & mask;
    for (; tokens_[at] >= 0; at = (at + 1) & mask)
      if (token(tokens_[at]) == token(i))
        throw std::invalid_argument("token " + std::to_string(i) + " is the same as token " +
                                    std::to_string(tokens_[at]) + ", '" + std::string(token(i).substr(0, 40)) + "'");
    tokens_[at] = static_cast<int32_t>(i);
  }
  characters_.assign(kCharacters, -1);
  for (uint32_t code = 0; code < kCharacters; ++code) {
    const char two[2] = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
    const char one = static_cast<char>(code);
    characters_[code] = find(code < 0x80 ? std::string_view(&one, 1) : std::string_view(two, 2));
  }
}

void Bpe::add_merges(const Strings& merges) {
  merges_.assign(table_size(merges.count), Merge{0, 0, -1});
  std::string whole;
  for (size_t i = 0; i < merges.count; ++i) {
    const std::string_view s = string_at(merges, i, "merge");
    const size_t blank = s.find(' ');
    int32_t left = -1, right = -1, made = -1;
    if (blank != s.npos) {
      whole.assign(s.substr(0, blank)).append(s.substr(blank + 1));
      left = find(s.substr(0, blank));
      right = find(s.substr(blank + 1));
      made = find(whole);
    }
    if (left < 0 || right < 0 || made < 0)
      throw std::invalid_argument("merge " + std::to_string(i) + (is_utf8(s) ? ", '" + std::string(s) + "'," : "") +
                                  " is not made of two tokens that are one");
    auto* merge = const_cast<Merge*>(find(left, right));
    *merge = {static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right), static_cast<uint32_t>(i), made};
  }
}

std::vector<int32_t> Bpe::encode(std::string_view words) const {
  std::vector<int32_t> out;
  Scratch scratch;
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    encode_word(words.substr(0, end), scratch, out);
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return out;
}

namespace {

// For the heap, which keeps its greatest in front: the best rank, of equal ones the leftmost.
const auto comes_later = [](const auto& a, const auto& b) { return a.rank != b.rank ? a.rank > b.rank : a.at > b.at; };

}  // namespace

// Notes the merge of the symbol at `at` with the next, if there is one.
void Bpe::note(Scratch& scratch, int32_t at) const {
  const Symbol& left = scratch.symbols[at];
  if (left.next < 0) return;
  const Merge* merge = find(left.id, scratch.symbols[left.next].id);
  if (merge->made < 0) return;
  scratch.heap.push_back({merge->rank, static_cast<uint32_t>(at), merge->made});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  auto& [symbols, heap] = scratch;
  symbols.clear();
  heap.clear();
  for (size_t i = 0; i < word.size();) {
    const size_t length = std::max<size_t>(character(word, i), 1);
    const auto byte = [&](size_t j) { return static_cast<uint8_t>(word[i + j]); };
    const uint32_t code = length == 1 ? byte(0) : length == 2 ? (byte(0) & 31u) << 6 | (byte(1) & 63u) : kCharacters;
    const int32_t id = code < kCharacters ? characters_[code] : find(word.substr(i, length));
    i += length;
    if (id < 0) continue;
    const int32_t at = static_cast<int32_t>(symbols.size());
    if (at) symbols[at - 1].next = at;
    symbols.push_back({id, at - 1, -1});
  }
  for (size_t at = 0; at < symbols.size(); ++at) note(scratch, static_cast<int32_t>(at));
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    heap.pop_back();
    Symbol& left = symbols[best.at];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = find(left.id, right.id);
    if (merge->made != best.made || merge->rank != best.rank) continue;  // one of the two has changed since
    left.id = best.made;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = static_cast<int32_t>(best.at);
    if (left.previous >= 0) note(scratch, left.previous);
    note(scratch, static_cast<int32_t>(best.at));
  }
  for (const Symbol& symbol : symbols)
    if (symbol.id >= 0) out.push_back(symbol.id);
}

}  // namespace qwick
