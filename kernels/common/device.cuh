// What every <op>_cuda.cu needs: launches, elements, 16-byte packs, sums over a block.
//
// A kernel source names only what CUDA itself names. nvcc finds <cuda_runtime.h> in the toolkit;
// the tests find tests/cpp/cuda_emulation/cuda_runtime.h instead, compile the same source as C++
// and run it on the processor. So: no <<<>>>, no PTX outside of a function that has a twin for the
// host, and dynamic shared memory through N2M_DYNAMIC_SHARED.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "noise2music/status.h"
#include "noise2music/types.h"

#ifndef N2M_DYNAMIC_SHARED
#define N2M_DYNAMIC_SHARED(Type, name)                          \
  extern __shared__ __align__(128) unsigned char n2m_shared_[]; \
  Type* const name = reinterpret_cast<Type*>(n2m_shared_)
#endif

namespace n2m::cuda {

constexpr int kWarp = 32;
constexpr unsigned kEveryLane = 0xffffffffu;
constexpr int64_t kMostGridY = 65535;  // of blocks along y and z

// `op` reads "n2m.<op>".
inline Status ToStatus(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return Status::Ok();
  return Status::Internal(std::string(op) + ": the GPU refused: " + cudaGetErrorString(error));
}

// Launches a kernel. Arguments convert as in a call.
template <class... Parameters, class... Arguments>
Status Launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
              size_t shared_bytes, void* stream, Arguments... arguments) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > (48 << 10)) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  return ToStatus(op, error);
}

// Fills with zeros.
inline Status Clear(const char* op, void* at, size_t bytes, void* stream) {
  return ToStatus(op, cudaMemsetAsync(at, 0, bytes, static_cast<cudaStream_t>(stream)));
}

inline Status Copy(const char* op, void* to, const void* from, size_t bytes, void* stream) {
  return ToStatus(op, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                      static_cast<cudaStream_t>(stream)));
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Storage of one bfloat16: the upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

__host__ __device__ inline float ToFloat(float x) { return x; }
__host__ __device__ inline float ToFloat(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

template <class T>
__host__ __device__ inline T FromFloat(float x);
template <>
__host__ __device__ inline float FromFloat<float>(float x) {
  return x;
}
// To the nearest, ties to even; a NaN stays one.
template <>
__host__ __device__ inline BFloat16 FromFloat<BFloat16>(float x) {
#ifdef __CUDA_ARCH__
  BFloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

// N values that move in one access.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};
// Values of 16 bytes.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

inline bool IsAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <int N, class T>
__device__ inline Pack<T, N> Load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, int N>
__device__ inline void Store(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// The sum over a warp, in every lane, always in the same order.
template <class T>
__device__ inline T WarpSum(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kEveryLane, value, step);
  return value;
}

}  // namespace n2m::cuda
