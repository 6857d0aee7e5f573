// What a launcher returns. Launchers never throw and never abort on bad input.
#pragma once

#include <string>
#include <utility>

namespace n2m {

class [[nodiscard]] Status {
 public:
  static Status Ok() { return Status(); }
  // `message` reads "n2m.<op>: <argument> must be ..., got ...".
  static Status InvalidArgument(std::string message) { return Status(std::move(message), false); }
  // Not the caller's fault: a GPU refused a launch. `message` reads "n2m.<op>: ...".
  static Status Internal(std::string message) { return Status(std::move(message), true); }

  bool ok() const { return message_.empty(); }
  bool internal() const { return internal_; }
  const std::string& message() const { return message_; }

 private:
  Status() = default;
  Status(std::string message, bool internal) : message_(std::move(message)), internal_(internal) {}
  std::string message_;
  bool internal_ = false;
};

}  // namespace n2m
