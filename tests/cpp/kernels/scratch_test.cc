// The scratch memory of XLA's handlers: reused from call to call, never shared by two at once.
#include "xla/scratch.h"

#include <atomic>
#include <thread>

#include "check.h"

namespace {

using namespace n2m_test;
using n2m::xla_ffi::Scratch;

void TestReused() {
  const float* first = nullptr;
  for (int64_t floats : {int64_t{1000}, int64_t{10}, int64_t{1000}}) {
    Scratch scratch;
    ExpectOk(scratch.Allocate(floats, "n2m.op"), "reused");
    Expect(reinterpret_cast<uintptr_t>(scratch.data()) % 64 == 0, "on a cache line");
    if (first == nullptr) first = scratch.data();
    Expect(scratch.data() == first, Name("the block that was given back, for", floats));
  }
  {
    Scratch large;  // more than is kept: freed, and the kept block stays
    ExpectOk(large.Allocate(int64_t{5} << 20, "n2m.op"), "large");
  }
  Scratch again;
  ExpectOk(again.Allocate(1000, "n2m.op"), "again");
  Expect(again.data() == first, "a large call drops no block");
  Scratch small, larger;
  ExpectOk(small.Allocate(1000, "n2m.op"), "taken");
  ExpectOk(larger.Allocate(1000, "n2m.op"), "a second");
  Expect(small.data() != larger.data(), "two calls at once have two blocks");
  Scratch none;
  ExpectOk(none.Allocate(0, "n2m.op"), "nothing");
  Expect(none.data() == nullptr, "nothing is no memory");
}

// The sanitizers' own allocators stop the program instead.
void TestRefused() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  Scratch scratch;
  const n2m::Status status = scratch.Allocate(int64_t{1} << 59, "n2m.op");
  Expect(!status.ok() && status.message().find("n2m.op: scratch memory") == 0, "too much");
#endif
}

// Every thread finds in its block what it wrote there.
void TestThreads() {
  std::atomic<bool> right{true};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i, &right] {
      Random random(static_cast<uint64_t>(i));
      for (int call = 0; call < 200; ++call) {
        Scratch scratch;
        const int64_t floats = random.Int(1, 3000);
        if (!scratch.Allocate(floats, "n2m.op").ok()) right = false;
        std::fill_n(scratch.data(), floats, static_cast<float>(i));
        std::this_thread::yield();
        for (int64_t k = 0; k < floats; ++k) {
          if (scratch.data()[k] != static_cast<float>(i)) right = false;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Expect(right, "no two threads share a block");
}

}  // namespace

int main() {
  TestReused();
  TestThreads();
  TestRefused();
  return Report("scratch");
}
