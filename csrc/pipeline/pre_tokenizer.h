// The pre-tokenizer of a tokenizer.json: cuts a normalised text into words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/token_part.h"

namespace n2m {

class PreTokenizer {
 public:
  using Words = std::vector<std::vector<uint32_t>>;

  // WhitespaceSplit, Metaspace, Digits (each alone) and Punctuation (isolated), alone or in a
  // Sequence. Others are refused by name.
  static Status Parse(const TokenPart& part, PreTokenizer* out);

  // `at_start`: whether the text begins where the whole prompt does.
  Words Split(std::vector<uint32_t> text, bool at_start) const;

 private:
  enum class Kind { kWhitespaceSplit, kMetaspace, kDigits, kPunctuation };
  enum class Prefix { kAlways, kFirst, kNever };
  struct Step {
    Kind kind = Kind::kMetaspace;
    uint32_t mark = 0;  // kMetaspace: stands for a space
    Prefix prefix = Prefix::kAlways;
    bool split = true;
  };
  static Status ParseStep(const TokenPart& part, bool first, Step* out);
  static void Run(const Step& step, bool at_start, std::vector<uint32_t> word, Words* out);

  std::vector<Step> steps_;
};

}  // namespace n2m
