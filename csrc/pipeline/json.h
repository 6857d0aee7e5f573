// A strict reader of JSON (RFC 8259) for the three files of a model: no comments, no trailing
// commas, no repeated keys, UTF-8 only, and bounds on depth and on the number of values, so that a
// hostile file costs time proportional to its size and nothing else. docs/design/cpp_pipeline.md
// says why it is our own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

// One value. Objects keep the order of the file.
class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, Json>;

  // Reads a whole text. `what` names it in the message of an error.
  static Status Parse(std::string_view text, const std::string& what, Json* out);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool boolean() const { return number_ != 0.0; }
  double number() const { return number_; }
  // Whether it is a whole number that a double holds exactly.
  bool is_integer() const;
  int64_t integer() const { return static_cast<int64_t>(number_); }
  const std::string& string() const { return string_; }
  const std::vector<Json>& items() const { return items_; }
  const std::vector<Member>& members() const { return members_; }
  // The member of an object by its name; null where it has none, or is no object.
  const Json* Find(std::string_view name) const;

  // The text of a string as JSON writes it, quotes included.
  static std::string Quoted(std::string_view text);

 private:
  friend class JsonReader;
  Kind kind_ = Kind::kNull;
  double number_ = 0.0;
  std::string string_;
  std::vector<Json> items_;
  std::vector<Member> members_;
};

// "an object", "a number": for messages.
const char* KindName(Json::Kind kind);

}  // namespace n2m
