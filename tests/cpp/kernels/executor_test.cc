// ParallelFor on the calling thread, on our pool and on pools that start tasks late or never.
#include <atomic>
#include <functional>
#include <thread>

#include "check.h"

namespace {

using namespace n2m_test;

// Keeps its tasks until told to run them: a pool that is busy with something else.
class LatePool final : public n2m::Executor {
 public:
  int num_threads() const override { return 4; }
  void Schedule(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  size_t RunAll() {
    for (auto& task : tasks_) task();
    return tasks_.size();
  }

 private:
  std::vector<std::function<void()>> tasks_;
};

bool CoversOnce(n2m::Executor& executor, int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> seen(std::max<int64_t>(n, 1));
  std::atomic<bool> cut_by_grain{true};
  n2m::ParallelFor(executor, n, grain, [&](int64_t begin, int64_t end) {
    const int64_t step = std::max<int64_t>(grain, 1);
    if (begin % step != 0 || end != std::min(n, begin + step)) cut_by_grain = false;
    for (int64_t i = begin; i < end; ++i) ++seen[i];
  });
  for (int64_t i = 0; i < n; ++i) {
    if (seen[i] != 1) return false;
  }
  return cut_by_grain;
}

void TestCovers() {
  for (int threads : {1, 2, 5}) {
    const auto pool = n2m::MakeThreadPool(threads);
    Expect(pool->num_threads() == threads, Name("threads", pool->num_threads()));
    for (int64_t n : {-3, 0, 1, 2, 63, 64, 1000}) {
      for (int64_t grain : {-1, 0, 1, 7, 64, 2000}) {
        Expect(CoversOnce(*pool, n, grain), Name("covers", threads, n, grain));
        Expect(CoversOnce(n2m::SerialExecutor(), n, grain), Name("serial", n, grain));
      }
    }
  }
  Expect(n2m::MakeThreadPool(0)->num_threads() >= 1, "a pool as large as the machine");
}

void TestLateTasksTouchNothing() {
  LatePool late;
  Expect(CoversOnce(late, 100, 3), "a pool that starts nothing");
  Expect(late.RunAll() == 3, "three helpers were asked for");  // after the caller has returned
}

void TestNested() {
  const auto pool = n2m::MakeThreadPool(3);
  std::atomic<int64_t> sum{0};
  n2m::ParallelFor(*pool, 20, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      n2m::ParallelFor(*pool, 50, 4, [&](int64_t from, int64_t to) {
        for (int64_t j = from; j < to; ++j) sum += i * j;
      });
    }
  });
  Expect(sum == 190 * 1225, Name("a loop in a loop", sum.load()));
}

// Eight callers on a pool of three: every one makes progress by itself, and never more threads work
// for the pool than callers and helpers together.
void TestManyCallers() {
  const auto pool = n2m::MakeThreadPool(3);
  std::atomic<int> wrong{0}, working{0}, most{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&, caller] {
      for (int turn = 0; turn < 50; ++turn) {
        std::atomic<int64_t> sum{0};
        n2m::ParallelFor(*pool, 64, 1 + caller, [&](int64_t begin, int64_t end) {
          const int now = ++working;
          for (int before = most; now > before && !most.compare_exchange_weak(before, now);) {
          }
          for (int64_t i = begin; i < end; ++i) sum += i;
          --working;
        });
        if (sum != 2016) ++wrong;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  Expect(wrong == 0, Name("callers with a wrong sum", wrong.load()));
  Expect(most <= 8 + 2, Name("threads at work", most.load()));
}

// The launchers themselves, from several threads at once on one pool.
void TestConcurrentLaunches() {
  n2m::FftUpsampleShape s;
  s.B = 2;
  s.T = 96;
  s.C = 3;
  s.up = 5;
  Random random(1);
  const Array x = Array::Normal(random, s.B * s.T * s.C);
  Array want(s.B * s.T * s.C * s.up);
  Array scratch(n2m::FftUpsampleScratch(s, 1));
  ExpectOk(n2m::FftUpsampleFwd(s, x.data(), want.data(), scratch.floats(), n2m::SerialExecutor()),
           "fft_upsample alone");
  const auto pool = n2m::MakeThreadPool(2);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      Array mine(n2m::FftUpsampleScratch(s, pool->num_threads())), y(want.size());
      for (int turn = 0; turn < 20; ++turn) {
        const bool ok = n2m::FftUpsampleFwd(s, x.data(), y.data(), mine.floats(), *pool).ok() &&
                        y.SameBits(want);
        if (!ok) ++wrong;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  Expect(wrong == 0, Name("concurrent launches that differ", wrong.load()));
}

}  // namespace

int main() {
  TestCovers();
  TestLateTasksTouchNothing();
  TestNested();
  TestManyCallers();
  TestConcurrentLaunches();
  return Report("executor");
}
