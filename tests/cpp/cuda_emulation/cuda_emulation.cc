// The fibers behind cuda_runtime.h.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {

Order fiber_order = Order::kForward;

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kWarp = 32;
constexpr size_t kMostShared = 227 << 10;  // of a Hopper block
constexpr size_t kFence = 1 << 10;         // bytes behind it that nobody may touch
constexpr unsigned char kPoison = 0xff;    // a float of it is NaN

enum class State { kReady, kAtBlockBarrier, kAtExchange, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  // The exchange it waits in, or was in last.
  unsigned mask = 0;
  int from = 0;
  uint64_t given = 0, taken = 0;
};

std::vector<std::unique_ptr<Fiber>> fibers;
int running = 0, threads = 0;
ucontext_t scheduler;
const std::function<void()>* body = nullptr;
alignas(1024) unsigned char shared[kMostShared + kFence];
size_t shared_bytes = 0;
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
#endif

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "cuda_emulation: block (%u, %u, %u), thread %d: %s\n", blockIdx.x,
               blockIdx.y, blockIdx.z, running, what);
  std::abort();
}

// Leaves the running fiber; returns when it is resumed.
void Wait(State state) {
  Fiber& fiber = *fibers[running];
  fiber.state = state;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(state == State::kDone ? nullptr : &fake, scheduler_stack,
                                 scheduler_stack_bytes);
#endif
  swapcontext(&fiber.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*body)();
  Wait(State::kDone);
}

void Resume(int thread) {
  running = thread;
  const unsigned t = static_cast<unsigned>(thread);
  threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
  Fiber& fiber = *fibers[thread];
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Whether every lane that the fiber's mask names, and that has not returned, waits with that mask.
bool ExchangeIsFull(int thread) {
  const int warp = thread / kWarp * kWarp;
  for (int lane = 0; lane < kWarp && warp + lane < threads; ++lane) {
    const Fiber& other = *fibers[warp + lane];
    if (!(fibers[thread]->mask >> lane & 1) || other.state == State::kDone) continue;
    if (other.state != State::kAtExchange || other.mask != fibers[thread]->mask) return false;
  }
  return true;
}

void ReleaseWaiting() {
  std::vector<int> free;
  int alive = 0, at_barrier = 0;
  for (int i = 0; i < threads; ++i) {
    alive += fibers[i]->state != State::kDone;
    at_barrier += fibers[i]->state == State::kAtBlockBarrier;
    if (fibers[i]->state == State::kAtExchange && ExchangeIsFull(i)) free.push_back(i);
  }
  if (at_barrier == alive) {
    for (int i = 0; i < threads; ++i) {
      if (fibers[i]->state == State::kAtBlockBarrier) fibers[i]->state = State::kReady;
    }
  } else if (free.empty()) {
    Die("some threads wait where others never come");
  }
  for (int i : free) {
    const Fiber& other = *fibers[i / kWarp * kWarp + fibers[i]->from];
    fibers[i]->taken = other.given;
    if (other.state != State::kAtExchange) Die("an exchange reads from a lane that is not there");
  }
  for (int i : free) fibers[i]->state = State::kReady;
}

void Begin(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.state = State::kReady;
  makecontext(&fiber.context, &Enter, 0);
}

void RunBlock() {
  std::memset(shared, kPoison, shared_bytes + kFence);
  for (int i = 0; i < threads; ++i) Begin(*fibers[i]);
  for (int done = 0; done < threads;) {
    bool ran = false;
    for (int i = 0; i < threads; ++i) {
      const int thread = fiber_order == Order::kForward ? i : threads - 1 - i;
      if (fibers[thread]->state != State::kReady) continue;
      Resume(thread);
      ran = true;
      done += fibers[thread]->state == State::kDone;
    }
    if (!ran) ReleaseWaiting();
  }
  for (size_t i = 0; i < kFence; ++i) {
    if (shared[shared_bytes + i] != kPoison) Die("a thread wrote past the dynamic shared memory");
  }
}

}  // namespace

void RunGrid(dim3 grid, dim3 block, size_t dynamic_shared_bytes,
             const std::function<void()>& thread) {
  gridDim = grid;
  blockDim = block;
  threads = static_cast<int>(block.x * block.y * block.z);
  shared_bytes = dynamic_shared_bytes;
  body = &thread;
  while (static_cast<int>(fibers.size()) < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack.reset(new char[kStackBytes]);
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        RunBlock();
      }
    }
  }
}

unsigned char* DynamicShared() { return shared; }

void BlockBarrier() { Wait(State::kAtBlockBarrier); }

int Lane() { return running % kWarp; }

uint64_t Exchange(unsigned mask, uint64_t value, int from) {
  Fiber& fiber = *fibers[running];
  if (!(mask >> Lane() & 1)) Die("it is not in the mask of its own exchange");
  if (!(mask >> from & 1) || running / kWarp * kWarp + from >= threads) {
    Die("an exchange reads from a lane that does not take part");
  }
  fiber.mask = mask;
  fiber.from = from;
  fiber.given = value;
  Wait(State::kAtExchange);
  return fiber.taken;
}

}  // namespace cuda_emulation
