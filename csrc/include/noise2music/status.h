// What a launcher returns. Launchers never throw and never abort on bad input.
#pragma once

#include <string>
#include <utility>

namespace n2m {

enum class StatusCode : int {
  kOk = 0,
  kInvalidArgument = 1,  // an argument, a file or a model that cannot be used
  kCancelled = 2,        // a progress callback asked to stop
  kBadOutput = 3,        // a stage made NaN, infinity or silence
  kInternal = 5,         // a GPU refused a launch (4 is out of memory in the C interface)
};

class [[nodiscard]] Status {
 public:
  static Status Ok() { return Status(); }
  // `message` reads "n2m.<op>: <argument> must be ..., got ...".
  static Status InvalidArgument(std::string message) {
    return Status(StatusCode::kInvalidArgument, std::move(message));
  }
  static Status Cancelled(std::string message) {
    return Status(StatusCode::kCancelled, std::move(message));
  }
  static Status BadOutput(std::string message) {
    return Status(StatusCode::kBadOutput, std::move(message));
  }
  // Not the caller's fault: a GPU refused a launch. `message` reads "n2m.<op>: ...".
  static Status Internal(std::string message) {
    return Status(StatusCode::kInternal, std::move(message));
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace n2m
