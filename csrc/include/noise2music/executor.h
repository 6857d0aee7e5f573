/// \file
/// Where a launcher runs its chunks: XLA's pool, our own threads, or the calling thread alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "noise2music/export.h"

namespace n2m {

/// A pool of threads. Derive from it to lend the library your own.
class N2M_API Executor {
 public:
  /// Ends the pool.
  virtual ~Executor() = default;
  /// Threads that may run chunks at once, the calling thread included. At least 1.
  virtual int num_threads() const = 0;
  /// Hands a task to the pool. It may start late or, if the pool is busy, after ParallelFor
  /// returned; ParallelFor therefore never waits for a task that has not started.
  virtual void Schedule(std::function<void()> task) = 0;
};

/// The calling thread alone.
N2M_API Executor& SerialExecutor();

/// A pool of `num_threads` threads, the calling thread included; below 1: as many as the process
/// may use. Several callers may share it: their chunks queue, and none waits for another's. Its
/// threads sleep when idle, and end with it after what they are running; tasks still queued are
/// dropped.
N2M_API std::unique_ptr<Executor> MakeThreadPool(int num_threads);

/// Calls body(begin, end) on disjoint ranges that cover [0, n), each `grain` long but for the last.
/// The calling thread takes chunks itself. Chunk borders depend on n and grain only, never on the
/// number of threads, so results that are combined per chunk are the same on any machine.
/// `body` must not throw; it may itself call ParallelFor on the same executor.
N2M_API void ParallelFor(Executor& executor, int64_t n, int64_t grain,
                         const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace n2m
