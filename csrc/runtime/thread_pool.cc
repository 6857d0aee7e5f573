// The pool of MakeThreadPool: a queue under one lock. A task is a chunk loop, not a chunk, so that
// the lock is taken a few times a launch.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "noise2music/executor.h"

namespace n2m {
namespace {

// Processors this process may run on: fewer than the machine has, in a container.
int UsableProcessors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max<int>(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int num_threads) {
    const int wanted = num_threads < 1 ? UsableProcessors() : num_threads;
    for (int i = 1; i < wanted; ++i) {
      try {
        threads_.emplace_back([this] { Work(); });
      } catch (const std::system_error&) {
        break;  // the system has no more threads to give: work with those there are
      }
    }
  }

  ~ThreadPool() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int num_threads() const override { return static_cast<int>(threads_.size()) + 1; }

  void Schedule(std::function<void()> task) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void Work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
        if (stopping_) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Executor> MakeThreadPool(int num_threads) {
  return std::make_unique<ThreadPool>(num_threads);
}

}  // namespace n2m
