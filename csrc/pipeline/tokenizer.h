// Prompts to token ids: the byte-fallback BPE that a released model carries as tokenizer.json
// (python/noise2music/text/tokenizer.py makes it). A file of another kind is refused by name, never
// half understood.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

class Tokenizer {
 public:
  static Status Parse(std::string_view json, const std::string& file, Tokenizer* out);

  // The ids of `text` (UTF-8; a stray byte reads as U+FFFD), cut to max_length - 1, and "</s>"
  // behind them. `cut` says whether something was lost.
  std::vector<int32_t> Encode(std::string_view text, int64_t max_length, bool* cut) const;

  // One more than the largest id.
  int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Merge {
    int32_t rank, id;
  };
  // The ids of one word of the pre-tokenizer.
  void Word(const uint32_t* first, const uint32_t* last, std::vector<int32_t>* ids) const;
  int32_t IdOf(const std::string& piece) const;

  std::unordered_map<std::string, int32_t> vocab_;
  std::unordered_map<uint64_t, Merge> merges_;  // (left id, right id)
  int32_t bytes_[256] = {};
  int32_t end_ = 0;
  int64_t vocab_size_ = 0;
};

}  // namespace n2m
