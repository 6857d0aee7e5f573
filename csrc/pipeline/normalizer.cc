#include "pipeline/normalizer.h"

#include <algorithm>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

using Codes = std::vector<uint32_t>;

// Every run of at least `shortest` characters of a kind, by `content`.
template <class Kind>
Codes ReplaceRuns(const Codes& text, size_t shortest, const Codes& content, Kind kind) {
  Codes out;
  for (auto at = text.begin(); at != text.end();) {
    const auto end = std::find_if_not(at, text.end(), kind);
    if (static_cast<size_t>(end - at) >= shortest) {
      out.insert(out.end(), content.begin(), content.end());
      at = end;
    } else {
      const auto next = end == at ? at + 1 : end;
      out.insert(out.end(), at, next);
      at = next;
    }
  }
  return out;
}

Codes ReplaceText(const Codes& text, const Codes& pattern, const Codes& content) {
  Codes out;
  for (auto at = text.begin(); at != text.end();) {
    const auto found = std::search(at, text.end(), pattern.begin(), pattern.end());
    out.insert(out.end(), at, found);
    if (found == text.end()) break;
    out.insert(out.end(), content.begin(), content.end());
    at = found + static_cast<std::ptrdiff_t>(pattern.size());
  }
  return out;
}

}  // namespace

Status Normalizer::Parse(const TokenPart& part, Normalizer* out) {
  out->steps_.clear();
  for (const TokenPart& step : part.Steps("normalizers")) {
    out->steps_.emplace_back();
    N2M_RETURN_IF_ERROR(ParseStep(step, &out->steps_.back()));
  }
  return Status::Ok();
}

Status Normalizer::ParseStep(const TokenPart& part, Step* out) {
  const std::string type = part.type();
  if (type == "NFKC" || type == "Lowercase") {
    out->kind = type == "NFKC" ? Kind::kNfkc : Kind::kLowercase;
    return part.Only({});
  }
  if (type == "Strip") {
    out->kind = Kind::kStrip;
    out->left = part.Is("strip_left", "true", "true");
    out->right = part.Is("strip_right", "true", "true");
    return part.Only({"strip_left", "strip_right"});
  }
  if (type == "Replace") {
    const TokenPart pattern{part.json->Find("pattern"), part.file};
    const std::string text = pattern.Text("String", ""), regex = pattern.Text("Regex", "");
    const Json* content = part.json->Find("content");
    if (content == nullptr || !content->is(Json::Kind::kString))
      return part.Fail("must have a Replace with a text as its content");
    out->content = DecodeUtf8(content->string());
    if (!text.empty() && regex.empty()) {
      out->kind = Kind::kReplace;
      out->pattern = DecodeUtf8(text);
    } else if (text.empty() && (regex == "\\s+" || regex == " {2,}")) {
      out->kind = regex == "\\s+" ? Kind::kReplaceSpaces : Kind::kReplaceBlanks;
    } else {
      return part.Fail("must replace a text, or the expression \\s+ or \" {2,}\", got " +
                       Json::Quoted(regex));
    }
    return part.Only({"pattern", "content"});
  }
  if (type == "Precompiled") {
    out->kind = Kind::kMapped;
    if (!out->map.Parse(part.Text("precompiled_charsmap", "")))
      return part.Fail("must have a whole precompiled_charsmap, got one that is cut or damaged");
    return part.Only({"precompiled_charsmap"});
  }
  return part.Fail(
      "must have normalizers among NFKC, Lowercase, Strip, Replace and Precompiled, "
      "got " +
      Json::Quoted(type));
}

std::vector<uint32_t> Normalizer::Run(const Step& step, std::vector<uint32_t> text) {
  switch (step.kind) {
    case Kind::kNfkc:
      return Nfkc(text);
    case Kind::kLowercase:
      return Lowercase(text);
    case Kind::kReplace:
      return ReplaceText(text, step.pattern, step.content);
    case Kind::kReplaceSpaces:
      return ReplaceRuns(text, 1, step.content, IsSpace);
    case Kind::kReplaceBlanks:
      return ReplaceRuns(text, 2, step.content, [](uint32_t code) { return code == ' '; });
    case Kind::kMapped:
      return step.map.Apply(text);
    case Kind::kStrip:
      break;
  }
  if (step.right) {
    while (!text.empty() && IsSpace(text.back())) text.pop_back();
  }
  if (step.left) text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), IsSpace));
  return text;
}

std::vector<uint32_t> Normalizer::Apply(std::vector<uint32_t> text) const {
  for (const Step& step : steps_) text = Run(step, std::move(text));
  return text;
}

}  // namespace n2m
