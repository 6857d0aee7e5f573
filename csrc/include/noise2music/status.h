/// \file
/// What a launcher returns. Launchers never throw and never abort on bad input.
#pragma once

#include <string>
#include <utility>

/// The library: launchers of the operations, and the cascade built from them.
namespace n2m {

/// What kind of outcome a Status is.
enum class StatusCode : int {
  kOk = 0,               ///< Done.
  kInvalidArgument = 1,  ///< An argument, a file or a model that cannot be used.
  kCancelled = 2,        ///< A progress callback asked to stop.
  kBadOutput = 3,        ///< A stage made NaN, infinity or silence.
  kInternal = 5,         ///< A GPU refused a launch (4 is out of memory in the C interface).
};

/// Success, or a code and one line for people that says what must be otherwise.
class [[nodiscard]] Status {
 public:
  /// Success.
  static Status Ok() { return Status(); }
  /// The caller's fault. `message` reads `n2m.<op>: <argument> must be ..., got ...`.
  static Status InvalidArgument(std::string message) {
    return Status(StatusCode::kInvalidArgument, std::move(message));
  }
  /// A progress callback said no.
  static Status Cancelled(std::string message) {
    return Status(StatusCode::kCancelled, std::move(message));
  }
  /// A network made what is no audio.
  static Status BadOutput(std::string message) {
    return Status(StatusCode::kBadOutput, std::move(message));
  }
  /// Not the caller's fault: a GPU refused a launch. `message` reads `n2m.<op>: ...`.
  static Status Internal(std::string message) {
    return Status(StatusCode::kInternal, std::move(message));
  }

  /// Whether it is success.
  bool ok() const { return code_ == StatusCode::kOk; }
  /// What kind of outcome it is.
  StatusCode code() const { return code_; }
  /// One line; empty on success.
  const std::string& message() const { return message_; }

 private:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace n2m
