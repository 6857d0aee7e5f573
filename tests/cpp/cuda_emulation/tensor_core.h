// Twins of kernels/conv1d_block/conv1d_block_cuda_ptx.cuh on the processor: what the instructions
// mean, from the PTX manual, thread by thread. Sums are exact and rounded once an instruction;
// tensor cores drop some bits of each, so results agree to rounding only.
//
// What is asynchronous on the GPU happens here as late as it may (cp.async: its target holds NaN
// until the wait; wgmma: at the wait, or at once with `wgmma_is_late` off), so that a missing wait
// or a buffer that is filled again too early shows as a wrong result.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "kernels/conv1d_block/conv1d_block_cuda_job.h"

// The GPU that the launchers believe in.
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };
namespace cuda_emulation {
inline int compute_major = 8, processors = 4;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? cuda_emulation::processors
                                                  : cuda_emulation::compute_major;
  return cudaSuccess;
}

namespace cuda_emulation {

inline bool wgmma_is_late = true;

// Lets every other thread run until it waits.
inline void Yield() { Exchange(1u << Lane(), 0, Lane()); }

inline void SpinUntil(const std::function<bool()>& ready, const char* what) {
  for (int turns = 0; !ready(); ++turns) {
    if (turns == 100000) {
      std::fprintf(stderr, "cuda_emulation: block %u, thread %u waits for %s that never comes\n",
                   blockIdx.x, threadIdx.x, what);
      std::abort();
    }
    Yield();
  }
}

constexpr uint32_t kSharedBase = 1024;
inline unsigned char* Shared(uint32_t address) { return DynamicShared() + (address - kSharedBase); }

inline float BFloat16At(uint32_t address) {
  uint16_t half;
  std::memcpy(&half, Shared(address), 2);
  return __uint_as_float(static_cast<uint32_t>(half) << 16);
}

// Copies and products of one thread that are under way.
struct Pending {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
  void Commit() {
    groups.push_back(std::move(open));
    open.clear();
  }
  void Wait(size_t most) {
    while (groups.size() > most) {
      for (auto& action : groups.front()) action();
      groups.pop_front();
    }
  }
};
inline Pending copies[1024], products[1024];

struct Fragments {
  uint32_t words[8];
};
inline Fragments given[32][2][32];  // warp, turn, lane
inline unsigned turns[1024];

// Gives fragments to the warp; returns those of all lanes.
inline const Fragments* Gather(const Fragments& mine) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  Fragments(&turn)[32] = given[thread / 32][turns[thread]++ % 2];
  turn[lane] = mine;
  __syncwarp();
  return turn;
}

inline float Half(uint32_t word, int which) {
  return __uint_as_float(which != 0 ? word & 0xffff0000u : word << 16);
}

}  // namespace cuda_emulation

namespace n2m::ptx {

using namespace cuda_emulation;  // NOLINT: a twin of PTX is made of it

inline uint32_t SmemAddress(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - DynamicShared()) +
         kSharedBase;
}

inline void CpAsync16(uint32_t to, const void* from, bool valid) {
  if (to % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
    std::fprintf(stderr, "cuda_emulation: cp.async of 16 bytes is misaligned\n");
    std::abort();
  }
  std::memset(Shared(to), 0xff, 16);
  copies[threadIdx.x].open.push_back([=] {
    if (valid) {
      std::memcpy(Shared(to), from, 16);
    } else {
      std::memset(Shared(to), 0, 16);
    }
  });
}
inline void CpAsyncCommit() { copies[threadIdx.x].Commit(); }
template <int kPending>
void CpAsyncWait() {
  copies[threadIdx.x].Wait(kPending);
}

inline void LdMatrix(uint32_t (&r)[4], uint32_t address, bool transposed) {
  const Fragments* rows = Gather({{address}});
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    uint16_t half[2];
    for (uint32_t h = 0; h < 2; ++h) {
      const uint32_t row = transposed ? lane % 4 * 2 + h : lane / 4;
      const uint32_t column = transposed ? lane / 4 : lane % 4 * 2 + h;
      std::memcpy(&half[h], Shared(rows[i * 8 + row].words[0] + column * 2), 2);
    }
    r[i] = half[0] | static_cast<uint32_t>(half[1]) << 16;
  }
}
inline void LdMatrixX4(uint32_t (&r)[4], uint32_t address) { LdMatrix(r, address, false); }
inline void LdMatrixX4Trans(uint32_t (&r)[4], uint32_t address) { LdMatrix(r, address, true); }

inline void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Fragments* lanes = Gather({{a[0], a[1], a[2], a[3], b0, b1}});
  const int group = static_cast<int>(threadIdx.x) % 32 / 4, quad = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int high_row = i / 2, column = quad * 2 + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = lanes[group * 4 + k % 8 / 2].words[high_row + k / 8 * 2];
      const uint32_t right = lanes[column * 4 + k % 8 / 2].words[4 + k / 8];
      sum += static_cast<double>(Half(left, k % 2)) * Half(right, k % 2);
    }
    d[i] = static_cast<float>(sum);
  }
}

inline void NamedBarrier(int id, int threads) {
  static int arrived[16], generation[16];
  const int mine = generation[id];
  if (++arrived[id] == threads) {
    arrived[id] = 0;
    ++generation[id];
    return;
  }
  SpinUntil([=] { return generation[id] != mine; }, "a named barrier");
}

struct Mbarrier {
  uint16_t count, missing;
  uint32_t phase;
};
inline Mbarrier& MbarrierAt(uint32_t address) {
  return *reinterpret_cast<Mbarrier*>(Shared(address));
}
inline void MbarrierInit(uint32_t barrier, int count) {
  MbarrierAt(barrier) = {static_cast<uint16_t>(count), static_cast<uint16_t>(count), 0};
}
inline void MbarrierArrive(uint32_t barrier) {
  Mbarrier& b = MbarrierAt(barrier);
  if (--b.missing > 0) return;
  b.missing = b.count;
  b.phase ^= 1;
}
inline void MbarrierWait(uint32_t barrier, int parity) {
  SpinUntil([=] { return MbarrierAt(barrier).phase != static_cast<uint32_t>(parity); },
            "an mbarrier");
}
inline void FenceProxyAsync() {}

// Where wgmma finds element (row of m or n, k) of a tile of 16-bit elements.
inline uint32_t WgmmaElement(const conv1d_block_cuda::Descriptor& d, bool transposed, uint32_t row,
                             uint32_t k) {
  if (d.swizzle != 0) std::abort();  // not used by these kernels
  if (transposed) {
    return d.start + row / 8 * d.stride + k / 8 * d.leading + k % 8 * 16 + row % 8 * 2;
  }
  return d.start + row / 8 * d.stride + row % 8 * 16 + k / 8 * d.leading + k % 8 * 2;
}

inline void WgmmaFence() {}
inline void WgmmaCommit() { products[threadIdx.x].Commit(); }
template <int kPending>
void WgmmaWait() {
  products[threadIdx.x].Wait(kPending);
}

template <bool kTransposeA, bool kTransposeB>
void WgmmaM64N128K16(float (&d)[16][4], uint64_t a_bits, uint64_t b_bits) {
  const uint32_t thread = threadIdx.x;
  auto multiply = [&d, a_bits, b_bits, thread] {
    const auto a = conv1d_block_cuda::Decode(a_bits), b = conv1d_block_cuda::Decode(b_bits);
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = thread % 128 / 32 * 16 + half * 8 + thread % 32 / 4;
      float left[16];
      for (uint32_t k = 0; k < 16; ++k) left[k] = BFloat16At(WgmmaElement(a, kTransposeA, row, k));
      for (uint32_t tile = 0; tile < 16; ++tile) {
        for (uint32_t i = 0; i < 2; ++i) {
          const uint32_t column = tile * 8 + thread % 4 * 2 + i;
          double sum = d[tile][half * 2 + i];
          for (uint32_t k = 0; k < 16; ++k) {
            sum +=
                static_cast<double>(left[k]) * BFloat16At(WgmmaElement(b, kTransposeB, column, k));
          }
          d[tile][half * 2 + i] = static_cast<float>(sum);
        }
      }
    }
  };
  if (wgmma_is_late) {
    products[thread].open.push_back(multiply);
  } else {
    multiply();
  }
}

}  // namespace n2m::ptx
