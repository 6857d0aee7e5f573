// Prompts to token ids, by the tokenizer.json of a model: the byte-fallback BPE that
// python/noise2music/text/tokenizer.py makes, or the Unigram vocabulary of a published T5. A file
// with a part that is not known here is refused by name, never half understood.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/normalizer.h"
#include "pipeline/pre_tokenizer.h"
#include "pipeline/token_model.h"

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
  using Codes = std::vector<uint32_t>;
  // A text that is one token wherever it stands in a prompt: "</s>", "<extra_id_0>".
  struct Added {
    Codes content;
    int32_t id = 0;
    bool lstrip = false, rstrip = false;  // takes the white space beside it along
  };
  Status ParseAdded(const TokenPart& part);
  // The longest that stands at `at`, or null.
  const Added* AddedAt(const Codes& text, size_t at) const;
  void Section(Codes text, bool at_start, std::vector<int32_t>* ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::shared_ptr<const TokenModel> model_;
  std::vector<Added> added_;
  int32_t end_ = 0;
  int64_t vocab_size_ = 0;
};

}  // namespace n2m
