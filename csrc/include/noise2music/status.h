// What a launcher returns. Launchers never throw and never abort on bad input.
#pragma once

#include <string>
#include <utility>

namespace n2m {

class [[nodiscard]] Status {
 public:
  static Status Ok() { return Status(); }
  // `message` reads "n2m.<op>: <argument> must be ..., got ...".
  static Status InvalidArgument(std::string message) { return Status(std::move(message)); }

  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  Status() = default;
  explicit Status(std::string message) : message_(std::move(message)) {}
  std::string message_;
};

}  // namespace n2m
