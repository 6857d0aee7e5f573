// Where a launcher runs its chunks: XLA's pool, our own threads, or the calling thread alone.
#pragma once

#include <cstdint>
#include <functional>

namespace n2m {

class Executor {
 public:
  virtual ~Executor() = default;
  // Threads that may run chunks at once, the calling thread included. At least 1.
  virtual int num_threads() const = 0;
  // Hands a task to the pool. It may start late or, if the pool is busy, after ParallelFor returned;
  // ParallelFor therefore never waits for a task that has not started.
  virtual void Schedule(std::function<void()> task) = 0;
};

// The calling thread alone.
Executor& SerialExecutor();

// Calls body(begin, end) on disjoint ranges that cover [0, n), each at least `grain` long but for the last.
// The calling thread takes chunks itself. Chunk borders depend on n and grain only, never on the number of
// threads, so results that are combined per chunk are the same on any machine.
void ParallelFor(Executor& executor, int64_t n, int64_t grain,
                 const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace n2m
