#include "pipeline/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <unordered_set>

#include "pipeline/utf8.h"

namespace n2m {

namespace {
constexpr int kDeepest = 64;
constexpr int64_t kMostValues = 8'000'000;
}  // namespace

class JsonReader {
 public:
  JsonReader(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Status Read(Json* out) {
    if (!ValidUtf8(text_)) return Fail("must be UTF-8");
    if (Status status = Value(out, 0); !status.ok()) return status;
    Space();
    return at_ == text_.size() ? Status::Ok() : Fail("must end after its value");
  }

 private:
  Status Fail(const char* rule) const {
    return Status::InvalidArgument("n2m.json: " + what_ + " " + rule +
                                   ", got something else at byte " + std::to_string(at_) + " of " +
                                   std::to_string(text_.size()));
  }

  void Space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  bool Take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool TakeWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Status Value(Json* out, int depth) {
    if (depth > kDeepest) return Fail("must not be nested deeper than 64");
    if (++values_ > kMostValues) return Fail("must hold at most 8000000 values");
    Space();
    if (at_ == text_.size()) return Fail("must be complete");
    switch (text_[at_]) {
      case '{':
        return Object(out, depth);
      case '[':
        return Array(out, depth);
      case '"':
        out->kind_ = Json::Kind::kString;
        return String(&out->string_);
      case 't':
      case 'f':
        out->kind_ = Json::Kind::kBool;
        out->number_ = text_[at_] == 't' ? 1.0 : 0.0;
        return TakeWord(text_[at_] == 't' ? "true" : "false") ? Status::Ok()
                                                              : Fail("must hold JSON values");
      case 'n':
        return TakeWord("null") ? Status::Ok() : Fail("must hold JSON values");
      default:
        return Number(out);
    }
  }

  Status Object(Json* out, int depth) {
    out->kind_ = Json::Kind::kObject;
    ++at_;
    Space();
    if (Take('}')) return Status::Ok();
    std::unordered_set<std::string> names;
    for (;;) {
      Space();
      Json::Member member;
      if (at_ == text_.size() || text_[at_] != '"') return Fail("must have names in quotes");
      if (Status status = String(&member.first); !status.ok()) return status;
      if (!names.insert(member.first).second) return Fail("must not repeat a name");
      Space();
      if (!Take(':')) return Fail("must have a colon after a name");
      if (Status status = Value(&member.second, depth + 1); !status.ok()) return status;
      out->members_.push_back(std::move(member));
      Space();
      if (Take('}')) return Status::Ok();
      if (!Take(',')) return Fail("must have a comma or } after a member");
    }
  }

  Status Array(Json* out, int depth) {
    out->kind_ = Json::Kind::kArray;
    ++at_;
    Space();
    if (Take(']')) return Status::Ok();
    for (;;) {
      out->items_.emplace_back();
      if (Status status = Value(&out->items_.back(), depth + 1); !status.ok()) return status;
      Space();
      if (Take(']')) return Status::Ok();
      if (!Take(',')) return Fail("must have a comma or ] after an item");
    }
  }

  // -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
  Status Number(Json* out) {
    const size_t first = at_;
    const auto digits = [this] {
      const size_t start = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      return at_ > start;
    };
    Take('-');
    if (!Take('0') && !digits()) return Fail("must hold JSON values");
    if (Take('.') && !digits()) return Fail("must have digits after a point");
    if (Take('e') || Take('E')) {
      if (!Take('+')) Take('-');
      if (!digits()) return Fail("must have digits in an exponent");
    }
    out->kind_ = Json::Kind::kNumber;
    const char* end = text_.data() + at_;
    const auto result = std::from_chars(text_.data() + first, end, out->number_);
    if (result.ec != std::errc() || result.ptr != end)
      return Fail("must hold numbers that a double can hold");
    return Status::Ok();
  }

  // Four hexadecimal digits.
  bool Hex(uint32_t* out) {
    if (text_.size() - at_ < 4) return false;
    const char* first = text_.data() + at_;
    const auto result = std::from_chars(first, first + 4, *out, 16);
    at_ += 4;
    return result.ec == std::errc() && result.ptr == first + 4;
  }

  Status String(std::string* out) {
    ++at_;
    for (;;) {
      if (at_ == text_.size()) return Fail("must close its strings");
      const char c = text_[at_++];
      if (c == '"') return Status::Ok();
      if (static_cast<unsigned char>(c) < 0x20) return Fail("must escape control characters");
      if (c != '\\') {
        out->push_back(c);
        continue;
      }
      if (at_ == text_.size()) return Fail("must close its strings");
      const char escaped = text_[at_++];
      static constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
      if (const size_t found = kNames.find(escaped); found != std::string_view::npos) {
        out->push_back(kMeant[found]);
        continue;
      }
      uint32_t code = 0, low = 0;
      if (escaped != 'u' || !Hex(&code)) return Fail("must have legal escapes");
      if (code >= 0xD800 && code < 0xDC00) {  // a pair stands for one character
        if (!TakeWord("\\u") || !Hex(&low) || low < 0xDC00 || low > 0xDFFF) {
          return Fail("must have surrogates in pairs");
        }
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xDC00 && code < 0xE000) {
        return Fail("must have surrogates in pairs");
      }
      AppendUtf8(code, out);
    }
  }

  const std::string_view text_;
  const std::string& what_;
  size_t at_ = 0;
  int64_t values_ = 0;
};

Status Json::Parse(std::string_view text, const std::string& what, Json* out) {
  *out = Json();
  return JsonReader(text, what).Read(out);
}

bool Json::is_integer() const {
  return kind_ == Kind::kNumber && std::fabs(number_) <= 9007199254740992.0 &&
         std::floor(number_) == number_;
}

const Json* Json::Find(std::string_view name) const {
  for (const Member& member : members_) {
    if (member.first == name) return &member.second;
  }
  return nullptr;
}

std::string Json::Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

const char* KindName(Json::Kind kind) {
  static constexpr const char* kNames[] = {"null",     "a truth value", "a number",
                                           "a string", "an array",      "an object"};
  return kNames[static_cast<int>(kind)];
}

}  // namespace n2m
