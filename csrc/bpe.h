// Byte pair encoding: which tokens a word is made of. Knows words as UTF-8 and tokens as numbers; no grammar of words,
// no special tokens, no Python.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <string_view>
#include <vector>

namespace qwick {

// Strings as GGUF stores them: at each start a 64-bit length, then so many bytes.
struct Strings {
  const uint8_t* data;
  size_t bytes;
  const int64_t* starts;
  size_t count;
};

// The merges of Sennrich, Haddow and Birch (2016), in the order of their ranks: of all neighbours in a word that have
// a merge, the best goes first, of equal ones the leftmost, until none is left. Immutable; threads may share one.
class Bpe {
 public:
  // tokens: the id of each is its number; merges: "left right", best first, of which a later copy counts.
  // Throws std::invalid_argument for a string outside the data or not in UTF-8, a token listed twice, a merge whose
  // parts or whole are no tokens.
  Bpe(const Strings& tokens, const Strings& merges);

  size_t size() const { return starts_.size() - 1; }
  std::string_view token(size_t id) const { return {text_.data() + starts_[id], starts_[id + 1] - starts_[id]}; }

  // Ids of words with a blank between two; a character that is no token is left out.
  std::vector<int32_t> encode(std::string_view words) const;

 private:
  struct Merge {
    uint64_t pair;    // left id << 32 | right id
    uint32_t rank;
    int32_t made;     // id of the whole
  };
  struct Symbol {     // a part of the word under way
    int32_t id;       // -1: merged into the one before it
    int32_t previous, next;
  };
  struct Candidate {  // a merge that was possible when it was noted
    uint32_t rank, at;
    int32_t made;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  uint64_t hash(std::string_view s) const;
  int32_t find(std::string_view s) const;  // -1: no token
  const Merge* find(int32_t left, int32_t right) const;
  void add_tokens(const Strings& tokens);
  void add_merges(const Strings& merges);
  void note(Scratch& scratch, int32_t at) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  uint64_t seed_;                    // of the hash: nobody can prepare a file of collisions
  std::string text_;                 // all tokens, one after the other
  std::vector<uint32_t> starts_;     // [size + 1] in text_
  std::vector<int32_t> tokens_;      // open addressing; -1: free
  std::vector<Merge> merges_;        // open addressing; made -1: free
  std::vector<int32_t> characters_;  // code point -> id or -1, for those below kCharacters
};

}  // namespace qwick
