// Byte-pair encoding (Sennrich et al. 2016): characters, joined pair by pair in the order of the
// merges. A character without a piece becomes its UTF-8 bytes.
#include <algorithm>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/token_model.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

uint64_t Pair(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

class Bpe final : public TokenModel {
 public:
  Status Parse(const TokenPart& part);
  void Word(const std::vector<uint32_t>& word, std::vector<int32_t>* ids) const override;

 private:
  struct Merge {
    int32_t rank, id;
  };
  std::unordered_map<uint64_t, Merge> merges_;  // (left id, right id)
  std::vector<int32_t> bytes_;
};

Status Bpe::Parse(const TokenPart& part) {
  if (!part.Is("byte_fallback", "true", "false"))
    return part.Fail("must have a BPE model with byte_fallback");
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* option = part.json->Find(name);
    if (option != nullptr && !option->is(Json::Kind::kNull))
      return part.Fail("must have a BPE model without " + std::string(name));
  }
  if (part.Is("ignore_merges", "true", "false"))
    return part.Fail("must have a BPE model without ignore_merges");
  N2M_RETURN_IF_ERROR(
      part.Only({"vocab", "merges", "byte_fallback", "dropout", "unk_token", "fuse_unk",
                 "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"}));
  const Json *vocab = part.json->Find("vocab"), *merges = part.json->Find("merges");
  if (vocab == nullptr || !vocab->is(Json::Kind::kObject)) return part.Fail("must have a vocab");
  for (const Json::Member& member : vocab->members()) {
    if (!member.second.is_integer() || !Add(member.first, member.second.integer())) {
      return part.Fail("must have a vocab of whole numbers from 0 on; got another for " +
                       member.first);
    }
  }
  bytes_ = ByteIds();
  const auto absent = std::find(bytes_.begin(), bytes_.end(), -1);
  if (absent != bytes_.end()) {
    return part.Fail("must have a piece for every byte, lacks that of byte " +
                     std::to_string(absent - bytes_.begin()));
  }
  if (merges == nullptr || !merges->is(Json::Kind::kArray)) return part.Fail("must have merges");
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
    const int32_t a = IdOf(left), b = IdOf(right), whole = IdOf(left + right);
    if (a < 0 || b < 0 || whole < 0)
      return part.Fail("must have merges that are in its vocab, got " + left + " " + right);
    merges_[Pair(a, b)] = {rank++, whole};
  }
  return Status::Ok();
}

void Bpe::Word(const std::vector<uint32_t>& word, std::vector<int32_t>* ids) const {
  std::vector<int32_t> pieces;
  for (const uint32_t code : word) {
    std::string character;
    AppendUtf8(code, &character);
    const int32_t id = IdOf(character);
    if (id >= 0) {
      pieces.push_back(id);
    } else {
      for (const char byte : character) pieces.push_back(bytes_[static_cast<unsigned char>(byte)]);
    }
  }
  // The merge of the lowest rank, leftmost first, until there is none. Prompts are short, so this
  // is quadratic.
  for (;;) {
    size_t best = pieces.size();
    Merge lowest{INT32_MAX, 0};
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      const auto found = merges_.find(Pair(pieces[i], pieces[i + 1]));
      if (found != merges_.end() && found->second.rank < lowest.rank) {
        lowest = found->second;
        best = i;
      }
    }
    if (best == pieces.size()) break;
    pieces[best] = lowest.id;
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  ids->insert(ids->end(), pieces.begin(), pieces.end());
}

}  // namespace

Status ParseBpe(const TokenPart& part, std::shared_ptr<const TokenModel>* out) {
  auto model = std::make_shared<Bpe>();
  N2M_RETURN_IF_ERROR(model->Parse(part));
  *out = std::move(model);
  return Status::Ok();
}

}  // namespace n2m
