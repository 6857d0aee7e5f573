// What every <op>_ffi.cc needs: XLA's thread pool as an Executor, and checks that name the
// argument.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "noise2music/executor.h"
#include "noise2music/status.h"
#include "noise2music/types.h"
#include "runtime/trace.h"
#include "xla/ffi/api/ffi.h"
#include "xla/scratch.h"

// One handler: N2M_DEFINE_HANDLER(n2m_<op>_fwd, Function, Bind().Arg<...>()...). Its line in
// csrc/xla/handlers.def registers it.
#define N2M_DEFINE_HANDLER(target, function, ...) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(target##_cpu, function, __VA_ARGS__)
// The same target on a GPU, with BindCuda(). Its launches may be recorded once and replayed, so it
// allocates nothing, waits for nothing and reads nothing back; scratch is its last result.
#define N2M_DEFINE_CUDA_HANDLER(target, function, ...)                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(target##_CUDA, ::n2m::xla_ffi::Traced(#target, function), \
                                __VA_ARGS__, {::xla::ffi::Traits::kCmdBufferCompatible})

namespace n2m::xla_ffi {

namespace ffi = ::xla::ffi;

// A handler's usual start: its first parameter is the thread pool.
inline auto Bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }
// On a GPU: the stream, a cudaStream_t.
inline auto BindCuda() { return ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>(); }

// Borrows the thread pool of the running XLA program. Lives on the handler's stack; a task that
// starts late holds its own state and never touches it.
class XlaExecutor final : public Executor {
 public:
  explicit XlaExecutor(ffi::ThreadPool pool)
      : pool_(pool), num_threads_(static_cast<int>(pool.num_threads())) {}
  int num_threads() const override { return num_threads_ < 1 ? 1 : num_threads_; }
  void Schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool pool_;
  int num_threads_;
};

// The handler with a range of the target's name around it.
template <class... Arguments>
auto Traced(const char* target, ffi::Error (*handler)(Arguments...)) {
  return [=](Arguments... arguments) {
    const TraceRange range(target);
    return handler(std::move(arguments)...);
  };
}

inline ffi::Error ToError(const Status& status) {
  if (status.ok()) return ffi::Error::Success();
  return status.code() == StatusCode::kInternal ? ffi::Error::Internal(status.message())
                                                : ffi::Error::InvalidArgument(status.message());
}

inline std::string ShapeString(ffi::AnyBuffer::Dimensions dims) {
  std::string out = "(";
  for (size_t i = 0; i < dims.size(); ++i) {
    out += (i > 0 ? "," : "") + std::to_string(dims[i]);
  }
  return out + ")";
}

// The shape must equal `expected`, where -1 matches any size. `argument` reads "n2m.<op>:
// <argument>".
inline Status CheckShape(ffi::AnyBuffer::Dimensions dims, std::initializer_list<int64_t> expected,
                         const char* argument) {
  bool same = dims.size() == expected.size();
  std::string wanted = "(";
  size_t i = 0;
  for (int64_t size : expected) {
    if (same && size >= 0 && dims[i] != size) same = false;
    wanted += (i > 0 ? "," : "") + (size < 0 ? std::string("any") : std::to_string(size));
    ++i;
  }
  if (same) return Status::Ok();
  return Status::InvalidArgument(std::string(argument) + " must be of shape " + wanted + "), got " +
                                 ShapeString(dims));
}

// float32 or bfloat16 into *dtype.
inline Status CheckDType(ffi::DataType type, DType* dtype, const char* argument) {
  if (type == ffi::DataType::F32) {
    *dtype = DType::kFloat32;
  } else if (type == ffi::DataType::BF16) {
    *dtype = DType::kBFloat16;
  } else {
    return Status::InvalidArgument(std::string(argument) +
                                   " must be float32 or bfloat16, got XLA type " +
                                   std::to_string(static_cast<int>(type)));
  }
  return Status::Ok();
}

// An optional operand that was None in Python arrives as a float32 array of shape (0,).
inline bool IsAbsent(ffi::AnyBuffer::Dimensions dims) { return dims.size() == 1 && dims[0] == 0; }

// An optional result that is None in Python is not declared, or so where others follow it. Without
// it a call with one result has no tuple, and XLA may let that result share memory with what an
// elementwise op makes of it.
template <class T>
ffi::AnyBuffer::Dimensions DimensionsOf(std::optional<ffi::Result<T>>& result) {
  static constexpr int64_t kAbsent[] = {0};
  if (!result.has_value()) return {kAbsent, 1};
  return (*result)->dimensions();
}
template <class T>
bool IsAbsent(std::optional<ffi::Result<T>>& result) {
  return IsAbsent(DimensionsOf(result));
}
inline float* ResultOrNull(std::optional<ffi::Result<ffi::Buffer<ffi::DataType::F32>>>& result) {
  return IsAbsent(result) ? nullptr : (*result)->typed_data();
}

// The last result of a CUDA handler. Its size comes from the same function, through
// _native.cuda_scratch. Not ffi::ScratchAllocator: that memory is free again when the handler
// returns, and a recorded launch would go on writing to it.
inline Status CheckScratch(ffi::Result<ffi::Buffer<ffi::DataType::F32>>& scratch, int64_t floats,
                           const char* op) {
  const int64_t got = static_cast<int64_t>(scratch->element_count());
  if (got >= floats) return Status::Ok();
  return Status::InvalidArgument(std::string(op) + ": scratch must be of at least " +
                                 std::to_string(floats) + " floats, got " + std::to_string(got));
}

}  // namespace n2m::xla_ffi

// Returns from the handler with the first failed status.
#define N2M_RETURN_IF_ERROR(expression)                              \
  do {                                                               \
    if (::n2m::Status n2m_status = (expression); !n2m_status.ok()) { \
      return ::n2m::xla_ffi::ToError(n2m_status);                    \
    }                                                                \
  } while (false)
