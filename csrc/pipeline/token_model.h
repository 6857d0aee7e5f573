// The model of a tokenizer.json: one word of the pre-tokenizer -> the ids of its pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/token_part.h"

namespace n2m {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual void Word(const std::vector<uint32_t>& word, std::vector<int32_t>* ids) const = 0;

  // -1 if there is no such piece.
  int32_t IdOf(const std::string& piece) const;
  // One more than the largest id.
  int64_t size() const { return size_; }

 protected:
  // False if the piece is there already, or the id is none.
  bool Add(const std::string& piece, int64_t id);
  // The ids of "<0x00>" to "<0xFF>", -1 where there is none.
  std::vector<int32_t> ByteIds() const;

 private:
  std::unordered_map<std::string, int32_t> vocab_;
  int64_t size_ = 0;
};

// "BPE" with byte_fallback: noise2music's own vocabularies.
Status ParseBpe(const TokenPart& part, std::shared_ptr<const TokenModel>* out);
// "Unigram": the vocabularies of the published T5 models.
Status ParseUnigram(const TokenPart& part, std::shared_ptr<const TokenModel>* out);

}  // namespace n2m
