// The normaliser of a tokenizer.json: what is done to a text before it is cut into words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/char_map.h"
#include "pipeline/token_part.h"

namespace n2m {

class Normalizer {
 public:
  // NFKC, Lowercase, Strip, Replace (a text, or one of the expressions \s+ and " {2,}") and
  // Precompiled, alone or in a Sequence. Others are refused by name.
  static Status Parse(const TokenPart& part, Normalizer* out);

  std::vector<uint32_t> Apply(std::vector<uint32_t> text) const;

 private:
  enum class Kind { kNfkc, kLowercase, kStrip, kReplace, kReplaceSpaces, kReplaceBlanks, kMapped };
  struct Step {
    Kind kind = Kind::kStrip;
    bool left = false, right = false;        // kStrip
    std::vector<uint32_t> pattern, content;  // kReplace...
    CharMap map;                             // kMapped
  };
  static Status ParseStep(const TokenPart& part, Step* out);
  static std::vector<uint32_t> Run(const Step& step, std::vector<uint32_t> text);

  std::vector<Step> steps_;
};

}  // namespace n2m
