#include "pipeline/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

using Words = PreTokenizer::Words;

// Cuts before and behind each character of a kind; they are words of their own, or left out.
template <class Kind>
void Isolate(const std::vector<uint32_t>& word, bool keep, Kind kind, Words* out) {
  std::vector<uint32_t> rest;
  const auto flush = [&] {
    if (!rest.empty()) out->push_back(std::move(rest));
    rest.clear();
  };
  for (const uint32_t code : word) {
    if (!kind(code)) {
      rest.push_back(code);
      continue;
    }
    flush();
    if (keep) out->push_back({code});
  }
  flush();
}

}  // namespace

Status PreTokenizer::Parse(const TokenPart& part, PreTokenizer* out) {
  out->steps_.clear();
  for (const TokenPart& step : part.Steps("pretokenizers")) {
    out->steps_.emplace_back();
    N2M_RETURN_IF_ERROR(ParseStep(step, out->steps_.size() == 1, &out->steps_.back()));
  }
  return Status::Ok();
}

Status PreTokenizer::ParseStep(const TokenPart& part, bool first, Step* out) {
  const std::string type = part.type();
  if (type == "WhitespaceSplit") {
    out->kind = Kind::kWhitespaceSplit;
    return part.Only({});
  }
  if (type == "Digits") {
    out->kind = Kind::kDigits;
    if (!part.Is("individual_digits", "true", "false"))
      return part.Fail("must have Digits with individual_digits");
    return part.Only({"individual_digits"});
  }
  if (type == "Punctuation") {
    out->kind = Kind::kPunctuation;
    if (!part.Is("behavior", "Isolated", "Isolated"))
      return part.Fail("must have Punctuation that is Isolated");
    return part.Only({"behavior"});
  }
  if (type == "Metaspace") {
    out->kind = Kind::kMetaspace;
    const std::vector<uint32_t> mark = DecodeUtf8(part.Text("replacement", "\u2581"));
    // Older files have add_prefix_space in place of prepend_scheme.
    const bool old_prefix = part.Is("add_prefix_space", "true", "true");
    const std::string scheme = part.Text("prepend_scheme", old_prefix ? "always" : "never");
    if (mark.size() != 1) return part.Fail("must have a Metaspace whose mark is one character");
    out->mark = mark[0];
    out->split = part.Is("split", "true", "true");
    if (scheme == "first" && !first)
      return part.Fail("must have a Metaspace that marks the first word in front, got it later");
    if (scheme != "always" && scheme != "first" && scheme != "never")
      return part.Fail("must have prepend_scheme always, first or never, got " +
                       Json::Quoted(scheme));
    out->prefix = scheme == "always"  ? Prefix::kAlways
                  : scheme == "first" ? Prefix::kFirst
                                      : Prefix::kNever;
    return part.Only({"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  }
  return part.Fail(
      "must have pre_tokenizers among WhitespaceSplit, Metaspace, Digits and "
      "Punctuation, got " +
      Json::Quoted(type));
}

void PreTokenizer::Run(const Step& step, bool at_start, std::vector<uint32_t> word, Words* out) {
  switch (step.kind) {
    case Kind::kWhitespaceSplit:
      return Isolate(word, false, IsSpace, out);
    case Kind::kDigits:
      return Isolate(word, true, IsNumber, out);
    case Kind::kPunctuation:
      return Isolate(word, true, IsPunctuation, out);
    case Kind::kMetaspace:
      break;
  }
  std::replace(word.begin(), word.end(), static_cast<uint32_t>(' '), step.mark);
  const bool wanted = step.prefix == Prefix::kAlways || (step.prefix == Prefix::kFirst && at_start);
  if (wanted && !word.empty() && word.front() != step.mark) word.insert(word.begin(), step.mark);
  // Every mark begins a word.
  while (!word.empty()) {
    const auto end = step.split ? std::find(word.begin() + 1, word.end(), step.mark) : word.end();
    out->emplace_back(word.begin(), end);
    word.erase(word.begin(), end);
  }
}

PreTokenizer::Words PreTokenizer::Split(std::vector<uint32_t> text, bool at_start) const {
  Words words;
  if (!text.empty()) words.push_back(std::move(text));
  for (const Step& step : steps_) {
    Words next;
    for (std::vector<uint32_t>& word : words) Run(step, at_start, std::move(word), &next);
    words = std::move(next);
  }
  return words;
}

}  // namespace n2m
