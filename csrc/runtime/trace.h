// Ranges in the time line of a profiler (Nsight Systems), named as everything else is.
#pragma once

#if defined(N2M_CUDA) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define N2M_HAS_NVTX 1
#endif

namespace n2m {

// A range from here to the end of the scope. Costs a few nanoseconds where no profiler listens, and
// nothing in a build without NVTX.
class TraceRange {
 public:
#ifdef N2M_HAS_NVTX
  explicit TraceRange(const char* name) { nvtxRangePushA(name); }
  ~TraceRange() { nvtxRangePop(); }
#else
  explicit TraceRange(const char*) {}
  ~TraceRange() {}
#endif
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};

}  // namespace n2m
