// The unigram language model (Kudo 2018): of all ways to cut a word into pieces, the one whose
// log-probabilities add up to most (Viterbi). A character that is no piece costs ten more than the
// rarest piece; neighbours of that kind become one unknown piece.
#include <algorithm>
#include <limits>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/token_model.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

constexpr double kUnknownPenalty = 10.0;

class Unigram final : public TokenModel {
 public:
  Status Parse(const TokenPart& part);
  void Word(const std::vector<uint32_t>& word, std::vector<int32_t>* ids) const override;

 private:
  // The best way to cut the text up to here: its log-probability and its last piece.
  struct Best {
    double score = -std::numeric_limits<double>::infinity();
    size_t begin = 0;
    int32_t id = -1;
  };
  void Insert(const std::string& piece, int32_t id);
  void Unknown(const std::string& text, std::vector<int32_t>* ids) const;

  std::vector<double> scores_;  // log-probability of each id
  double unknown_score_ = 0.0;
  int32_t unknown_ = 0;
  std::vector<int32_t> bytes_;  // empty: no byte_fallback
  // The pieces as a trie by bytes: (node, byte) -> node, and the piece that ends at a node, or -1.
  std::unordered_map<uint64_t, uint32_t> children_;
  std::vector<int32_t> ends_{-1};
};

uint64_t Edge(uint32_t node, char byte) {
  return (static_cast<uint64_t>(node) << 8) | static_cast<unsigned char>(byte);
}

void Unigram::Insert(const std::string& piece, int32_t id) {
  uint32_t node = 0;
  for (const char byte : piece) {
    const auto made = children_.emplace(Edge(node, byte), static_cast<uint32_t>(ends_.size()));
    if (made.second) ends_.push_back(-1);
    node = made.first->second;
  }
  ends_[node] = id;
}

Status Unigram::Parse(const TokenPart& part) {
  N2M_RETURN_IF_ERROR(part.Only({"vocab", "unk_id", "byte_fallback"}));
  const Json *vocab = part.json->Find("vocab"), *unknown = part.json->Find("unk_id");
  if (vocab == nullptr || !vocab->is(Json::Kind::kArray) || vocab->items().empty())
    return part.Fail("must have a vocab, a list of pieces and their log-probabilities");
  for (const Json& entry : vocab->items()) {
    const auto& pair = entry.items();
    if (pair.size() != 2 || !pair[0].is(Json::Kind::kString) || pair[0].string().empty() ||
        !pair[1].is(Json::Kind::kNumber)) {
      return part.Fail("must have pairs of a piece and its log-probability, got another as piece " +
                       std::to_string(scores_.size()));
    }
    const int32_t id = static_cast<int32_t>(scores_.size());
    if (!Add(pair[0].string(), id))
      return part.Fail("must have every piece once, got again " + Json::Quoted(pair[0].string()));
    Insert(pair[0].string(), id);
    scores_.push_back(pair[1].number());
  }
  if (unknown == nullptr || !unknown->is_integer() || unknown->integer() < 0 ||
      unknown->integer() >= size()) {
    return part.Fail("must have an unk_id that is one of its pieces");
  }
  unknown_ = static_cast<int32_t>(unknown->integer());
  unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  if (part.Is("byte_fallback", "true", "false")) bytes_ = ByteIds();
  return Status::Ok();
}

// A text that is no piece: its bytes if each of them has a piece, else the unknown piece.
void Unigram::Unknown(const std::string& text, std::vector<int32_t>* ids) const {
  std::vector<int32_t> found;
  for (const char byte : text) {
    if (!bytes_.empty()) found.push_back(bytes_[static_cast<unsigned char>(byte)]);
  }
  if (found.empty() || std::count(found.begin(), found.end(), -1) > 0) found = {unknown_};
  ids->insert(ids->end(), found.begin(), found.end());
}

void Unigram::Word(const std::vector<uint32_t>& word, std::vector<int32_t>* ids) const {
  std::string text;
  std::vector<size_t> starts;  // of the characters, in bytes
  for (const uint32_t code : word) {
    starts.push_back(text.size());
    AppendUtf8(code, &text);
  }
  std::vector<Best> best(text.size() + 1);
  best[0].score = 0.0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const size_t begin = starts[i], next = i + 1 < starts.size() ? starts[i + 1] : text.size();
    // Of equal scores the longer piece wins: it was there first.
    const auto offer = [&](size_t end, int32_t id, double score) {
      const double sum = best[begin].score + score;
      if (best[end].id < 0 || sum > best[end].score) best[end] = {sum, begin, id};
    };
    bool whole_character = false;
    uint32_t node = 0;
    for (size_t end = begin; end < text.size();) {
      const auto child = children_.find(Edge(node, text[end]));
      if (child == children_.end()) break;
      node = child->second;
      ++end;
      if (ends_[node] < 0) continue;
      offer(end, ends_[node], scores_[static_cast<size_t>(ends_[node])]);
      whole_character = whole_character || end == next;
    }
    if (!whole_character) offer(next, unknown_, unknown_score_);
  }
  // Back along the best way.
  std::vector<std::pair<size_t, size_t>> pieces;  // last first
  bool after_unknown = false;
  for (size_t end = text.size(); end > 0; end = best[end].begin) {
    const bool is_unknown = best[end].id == unknown_;
    if (is_unknown && after_unknown) {
      pieces.back().first = best[end].begin;
    } else {
      pieces.emplace_back(best[end].begin, end);
    }
    after_unknown = is_unknown;
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    const std::string part = text.substr(piece->first, piece->second - piece->first);
    const int32_t id = IdOf(part);
    if (id >= 0) {
      ids->push_back(id);
    } else {
      Unknown(part, ids);
    }
  }
}

}  // namespace

Status ParseUnigram(const TokenPart& part, std::shared_ptr<const TokenModel>* out) {
  auto model = std::make_shared<Unigram>();
  N2M_RETURN_IF_ERROR(model->Parse(part));
  *out = std::move(model);
  return Status::Ok();
}

}  // namespace n2m
