#include "pipeline/tokenizer.h"

#include <algorithm>
#include <cstdio>

#include "pipeline/check.h"
#include "pipeline/json.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

constexpr uint32_t kMark = 0x2581;  // stands for the space before a word

uint64_t Pair(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// The types of the parts of a Sequence, with a comma between: "NFKC,Lowercase".
std::string Types(const Json* part, const char* list) {
  const Json* items = part == nullptr ? nullptr : part->Find(list);
  std::string types;
  if (items == nullptr) return types;
  for (const Json& item : items->items()) {
    const Json* type = item.Find("type");
    types += (types.empty() ? "" : ",") + (type == nullptr ? std::string("?") : type->string());
  }
  return types;
}

// Whether every member of `want` (JSON text of an object) stands in `part` with the same value.
bool Has(const Json& part, const char* name, const char* value) {
  const Json* found = part.Find(name);
  if (found == nullptr) return false;
  if (found->is(Json::Kind::kBool))
    return std::string(found->boolean() ? "true" : "false") == value;
  return found->is(Json::Kind::kString) && found->string() == value;
}

}  // namespace

Status Tokenizer::Parse(std::string_view json, const std::string& file, Tokenizer* out) {
  *out = Tokenizer();
  Json root;
  N2M_RETURN_IF_ERROR(Json::Parse(json, file, &root));
  const auto fail = [&](const std::string& rule) {
    return Status::InvalidArgument("n2m.tokenizer: " + file + " must be " + rule);
  };
  const std::string kind = "the byte-fallback BPE of noise2music's own models";
  const Json* normalizer = root.Find("normalizer");
  const Json* pre = root.Find("pre_tokenizer");
  const Json* model = root.Find("model");
  if (Types(normalizer, "normalizers") != "NFKC,Lowercase,Replace,Strip") {
    return fail(kind + ": its normalizer must be NFKC,Lowercase,Replace,Strip, got " +
                Types(normalizer, "normalizers"));
  }
  if (Types(pre, "pretokenizers") != "Metaspace,Digits,Punctuation") {
    return fail(kind + ": its pre_tokenizer must be Metaspace,Digits,Punctuation, got " +
                Types(pre, "pretokenizers"));
  }
  const Json& replace = normalizer->Find("normalizers")->items()[2];
  const Json* pattern = replace.Find("pattern");
  const auto& parts = pre->Find("pretokenizers")->items();
  if (pattern == nullptr || !Has(*pattern, "Regex", "\\s+") || !Has(replace, "content", " ") ||
      !Has(parts[0], "prepend_scheme", "always") || !Has(parts[0], "replacement", "\u2581") ||
      !Has(parts[0], "split", "true") || !Has(parts[1], "individual_digits", "true") ||
      !Has(parts[2], "behavior", "Isolated")) {
    return fail(kind + ", got other options of its normalizer or pre_tokenizer");
  }
  if (const Json* added = root.Find("added_tokens"); added != nullptr && !added->items().empty()) {
    return fail(kind + ", got added_tokens");
  }
  if (model == nullptr || !Has(*model, "type", "BPE") || !Has(*model, "byte_fallback", "true")) {
    return fail(kind + ": its model must be BPE with byte_fallback");
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* option = model->Find(name);
    if (option != nullptr && !option->is(Json::Kind::kNull)) return fail(kind + ", got " + name);
  }
  if (const Json* ignore = model->Find("ignore_merges"); ignore != nullptr && ignore->boolean()) {
    return fail(kind + ", got ignore_merges");
  }

  const Json* vocab = model->Find("vocab");
  if (vocab == nullptr || !vocab->is(Json::Kind::kObject)) return fail("a tokenizer with a vocab");
  for (const Json::Member& member : vocab->members()) {
    const Json& id = member.second;
    if (!id.is_integer() || id.integer() < 0 || id.integer() > 10'000'000) {
      return fail("a vocab of whole numbers from 0 on; got another for " + member.first);
    }
    out->vocab_[member.first] = static_cast<int32_t>(id.integer());
    out->vocab_size_ = std::max(out->vocab_size_, id.integer() + 1);
  }
  if (out->IdOf("<pad>") != 0) return fail("a tokenizer whose token 0 is <pad>");
  out->end_ = out->IdOf("</s>");
  if (out->end_ < 0) return fail("a tokenizer with </s>");
  for (int i = 0; i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", i);
    out->bytes_[i] = out->IdOf(name);
    if (out->bytes_[i] < 0) return fail("a tokenizer with every byte, lacks " + std::string(name));
  }
  const Json* merges = model->Find("merges");
  if (merges == nullptr || !merges->is(Json::Kind::kArray)) return fail("a tokenizer with merges");
  int32_t rank = 0;
  for (const Json& merge : merges->items()) {
    std::string left, right;
    if (merge.items().size() == 2) {
      left = merge.items()[0].string();
      right = merge.items()[1].string();
    } else if (const size_t space = merge.string().find(' '); space != std::string::npos) {
      left = merge.string().substr(0, space);  // how older files write it
      right = merge.string().substr(space + 1);
    }
    const int32_t a = out->IdOf(left), b = out->IdOf(right), whole = out->IdOf(left + right);
    if (a < 0 || b < 0 || whole < 0)
      return fail("a tokenizer whose merges are in its vocab, got " + left + " " + right);
    out->merges_[Pair(a, b)] = {rank++, whole};
  }
  return Status::Ok();
}

int32_t Tokenizer::IdOf(const std::string& piece) const {
  const auto found = vocab_.find(piece);
  return found == vocab_.end() ? -1 : found->second;
}

void Tokenizer::Word(const uint32_t* first, const uint32_t* last, std::vector<int32_t>* ids) const {
  std::vector<int32_t> word;
  for (; first != last; ++first) {
    std::string character;
    AppendUtf8(*first, &character);
    const int32_t id = IdOf(character);
    if (id >= 0) {
      word.push_back(id);
    } else {
      for (const char byte : character) word.push_back(bytes_[static_cast<unsigned char>(byte)]);
    }
  }
  // The merge of the lowest rank, leftmost first, until there is none. Prompts are short, so this
  // is quadratic.
  for (;;) {
    size_t best = word.size();
    Merge lowest{INT32_MAX, 0};
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const auto found = merges_.find(Pair(word[i], word[i + 1]));
      if (found != merges_.end() && found->second.rank < lowest.rank) {
        lowest = found->second;
        best = i;
      }
    }
    if (best == word.size()) break;
    word[best] = lowest.id;
    word.erase(word.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  ids->insert(ids->end(), word.begin(), word.end());
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, int64_t max_length, bool* cut) const {
  // Normaliser: NFKC, lower case, runs of white space to one space, none at the ends.
  std::vector<uint32_t> codes;
  for (const uint32_t code : Lowercase(Nfkc(DecodeUtf8(text)))) {
    if (!IsSpace(code)) {
      codes.push_back(code);
    } else if (!codes.empty() && codes.back() != ' ') {
      codes.push_back(' ');
    }
  }
  if (!codes.empty() && codes.back() == ' ') codes.pop_back();
  // Every word begins with the mark; digits and punctuation stand alone.
  for (uint32_t& code : codes) code = code == ' ' ? kMark : code;
  if (!codes.empty() && codes.front() != kMark) codes.insert(codes.begin(), kMark);
  std::vector<int32_t> ids;
  const uint32_t* const end = codes.data() + codes.size();
  const auto alone = [](uint32_t code) { return IsNumber(code) || IsPunctuation(code); };
  for (const uint32_t* first = codes.data(); first != end;) {
    const uint32_t* last = first + 1;
    if (!alone(*first)) {
      while (last != end && *last != kMark && !alone(*last)) ++last;
    }
    Word(first, last, &ids);
    first = last;
  }
  const size_t room = static_cast<size_t>(std::max<int64_t>(max_length, 1)) - 1;
  *cut = ids.size() > room;
  if (*cut) ids.resize(room);
  ids.push_back(end_);
  return ids;
}

}  // namespace n2m
