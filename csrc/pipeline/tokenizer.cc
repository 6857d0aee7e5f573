#include "pipeline/tokenizer.h"

#include <algorithm>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/json.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {

Status Tokenizer::Parse(std::string_view json, const std::string& file, Tokenizer* out) {
  *out = Tokenizer();
  Json root;
  N2M_RETURN_IF_ERROR(Json::Parse(json, file, &root));
  const auto part = [&](const char* name) { return TokenPart{root.Find(name), file}; };
  N2M_RETURN_IF_ERROR(Normalizer::Parse(part("normalizer"), &out->normalizer_));
  N2M_RETURN_IF_ERROR(PreTokenizer::Parse(part("pre_tokenizer"), &out->pre_tokenizer_));
  const TokenPart model = part("model");
  if (model.type() == "BPE") {
    N2M_RETURN_IF_ERROR(ParseBpe(model, &out->model_));
  } else if (model.type() == "Unigram") {
    N2M_RETURN_IF_ERROR(ParseUnigram(model, &out->model_));
  } else {
    return model.Fail("must have a model of type BPE or Unigram, got " +
                      Json::Quoted(model.type()));
  }
  out->vocab_size_ = out->model_->size();
  out->end_ = out->model_->IdOf("</s>");
  if (const Json* added = root.Find("added_tokens")) {
    for (const Json& token : added->items()) N2M_RETURN_IF_ERROR(out->ParseAdded({&token, file}));
  }
  if (out->model_->IdOf("<pad>") != 0) return model.Fail("must have <pad> as token 0");
  if (out->end_ < 0) return model.Fail("must have the token </s>");
  return Status::Ok();
}

Status Tokenizer::ParseAdded(const TokenPart& part) {
  N2M_RETURN_IF_ERROR(
      part.Only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  const std::string content = part.Text("content", "");
  const Json* id = part.json->Find("id");
  if (content.empty() || !part.Is("single_word", "false", "false") ||
      !part.Is("normalized", "false", "true")) {
    return part.Fail("must have added_tokens that are neither single_word nor normalized, got " +
                     Json::Quoted(content));
  }
  // A token that the model has keeps its id there; others follow the model's.
  const int32_t known = model_->IdOf(content);
  const int64_t expected = known >= 0 ? known : vocab_size_;
  if (id == nullptr || !id->is_integer() || id->integer() != expected) {
    return part.Fail("must have the id " + std::to_string(expected) + " for the added token " +
                     Json::Quoted(content));
  }
  vocab_size_ = std::max(vocab_size_, expected + 1);
  added_.push_back({DecodeUtf8(content), static_cast<int32_t>(expected),
                    part.Is("lstrip", "true", "false"), part.Is("rstrip", "true", "false")});
  if (content == "</s>") end_ = added_.back().id;
  return Status::Ok();
}

const Tokenizer::Added* Tokenizer::AddedAt(const Codes& text, size_t at) const {
  const Added* longest = nullptr;
  for (const Added& token : added_) {
    if (token.content.size() <= text.size() - at &&
        std::equal(token.content.begin(), token.content.end(),
                   text.begin() + static_cast<std::ptrdiff_t>(at)) &&
        (longest == nullptr || token.content.size() > longest->content.size())) {
      longest = &token;
    }
  }
  return longest;
}

void Tokenizer::Section(Codes text, bool at_start, std::vector<int32_t>* ids) const {
  for (const Codes& word : pre_tokenizer_.Split(normalizer_.Apply(std::move(text)), at_start)) {
    model_->Word(word, ids);
  }
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, int64_t max_length, bool* cut) const {
  const Codes codes = DecodeUtf8(text);
  const auto from = [&](size_t at) { return codes.begin() + static_cast<std::ptrdiff_t>(at); };
  std::vector<int32_t> ids;
  size_t begin = 0;  // of what no added token has taken
  for (size_t at = 0; at < codes.size();) {
    const Added* token = AddedAt(codes, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t first = at, last = at + token->content.size();
    while (token->lstrip && first > begin && IsSpace(codes[first - 1])) --first;
    while (token->rstrip && last < codes.size() && IsSpace(codes[last])) ++last;
    Section({from(begin), from(first)}, begin == 0, &ids);
    ids.push_back(token->id);
    begin = at = last;
  }
  Section({from(begin), codes.end()}, begin == 0, &ids);
  const size_t room = static_cast<size_t>(std::max<int64_t>(max_length, 1)) - 1;
  *cut = ids.size() > room;
  if (*cut) ids.resize(room);
  ids.push_back(end_);
  return ids;
}

}  // namespace n2m
