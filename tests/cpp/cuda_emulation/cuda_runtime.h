// CUDA on the processor, for tests alone: the names that kernels/*/*_cuda.cu use, so that their
// very source compiles as C++ and runs where no GPU is. It stands in for the toolkit's header of
// this name by coming first on the include path.
//
// Blocks run one after another. The threads of a block are fibers of one system thread; each runs
// until it waits (__syncthreads, a warp exchange) or returns, then the next one does. A wait that
// not every thread reaches, or an exchange with a lane that is not there, ends the program with a
// message. `fiber_order` turns the order around, so that a missing barrier shows as a changed
// result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__ static  // blocks take turns, so one copy serves them all

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {

enum class Order { kForward, kBackward };
extern Order fiber_order;

// Runs `thread` for every thread of every block.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);
unsigned char* DynamicShared();
void BlockBarrier();
// Gives `value` to the lanes of the mask, waits for theirs, and returns that of lane `from`.
uint64_t Exchange(unsigned mask, uint64_t value, int from);
int Lane();

template <class T>
T ExchangeAs(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8, "CUDA shuffles 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Exchange(mask, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_emulation

#define N2M_DYNAMIC_SHARED(Type, name) \
  Type* const name = reinterpret_cast<Type*>(::cuda_emulation::DynamicShared())

// Threads.
inline void __syncthreads() { cuda_emulation::BlockBarrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_emulation::Exchange(mask, 0, cuda_emulation::Lane());
}
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int lane = cuda_emulation::Lane();
  return cuda_emulation::ExchangeAs(mask, value, (lane & -width) | (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return cuda_emulation::ExchangeAs(mask, value, cuda_emulation::Lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = cuda_emulation::Lane();
  const bool inside = (lane & (width - 1)) + by < width;
  return cuda_emulation::ExchangeAs(mask, value, inside ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = cuda_emulation::Lane();
  const bool inside = (lane & (width - 1)) >= by;
  return cuda_emulation::ExchangeAs(mask, value, inside ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (cuda_emulation::Exchange(mask, vote, lane)) votes |= 1u << lane;
  }
  return votes;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }

// Memory. One fiber runs at a time, so nothing more is needed to be atomic.
template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, static_cast<T>(*at + value));
}
template <class T>
T atomicOr(T* at, T value) {
  return std::exchange(*at, static_cast<T>(*at | value));
}

// Arithmetic.
using std::max;
using std::min;
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(x * 3.14159265358979323846));
  *cosine = static_cast<float>(std::cos(x * 3.14159265358979323846));
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Launches.
using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= 227 << 10 ? cudaSuccess : cudaErrorInvalidValue;  // what a Hopper block may have
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu &&
                    grid.y <= 65535 && grid.z <= 65535 && block.x * block.y * block.z >= 1 &&
                    block.x * block.y * block.z <= 1024;
  if (!fits) return cudaErrorInvalidValue;
  cuda_emulation::RunGrid(grid, block, config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}
