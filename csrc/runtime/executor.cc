#include "noise2music/executor.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

namespace n2m {
namespace {

class CallingThread final : public Executor {
 public:
  int num_threads() const override { return 1; }
  void Schedule(std::function<void()> task) override { task(); }
};

// Shared by the caller and its tasks. A task may start long after the caller returned: it then
// finds every chunk taken and touches nothing but this block, which its shared_ptr keeps alive.
struct Work {
  Work(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body)
      : n(n), grain(grain), chunks((n + grain - 1) / grain), body(&body) {}

  void Run() {
    for (;;) {
      const int64_t chunk = next.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks) return;
      (*body)(chunk* grain, std::min(n, (chunk + 1) * grain));
      done.fetch_add(1, std::memory_order_release);
    }
  }

  const int64_t n, grain, chunks;
  const std::function<void(int64_t, int64_t)>* const body;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
};

}  // namespace

Executor& SerialExecutor() {
  static CallingThread executor;
  return executor;
}

void ParallelFor(Executor& executor, int64_t n, int64_t grain,
                 const std::function<void(int64_t begin, int64_t end)>& body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (n + grain - 1) / grain;
  const int64_t helpers = std::min<int64_t>(executor.num_threads(), chunks) - 1;
  if (helpers <= 0) {
    // The same chunk borders as below, so that the result does not depend on the number of threads.
    for (int64_t i = 0; i < n; i += grain) body(i, std::min(n, i + grain));
    return;
  }
  auto work = std::make_shared<Work>(n, grain, body);
  for (int64_t i = 0; i < helpers; ++i) executor.Schedule([work] { work->Run(); });
  work->Run();
  // Every chunk is taken; those not done are running on a thread that has started, so this wait is
  // about as long as one chunk.
  for (int spins = 0; work->done.load(std::memory_order_acquire) < chunks; ++spins) {
    if (spins > 64) std::this_thread::yield();
  }
}

}  // namespace n2m
