// Tiles of x and of weights, from global to shared memory, in planes (conv1d_block_cuda_job.h).
//
// x goes in two moves. Issue starts 16-byte asynchronous copies of it as it is. Finish, when they
// have arrived, normalises and swishes them in place: a thread changes what it copied itself, so no
// barrier stands between, and no register holds x while it is under way.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_job.h"
#include "kernels/conv1d_block/conv1d_block_cuda_ptx.cuh"

namespace n2m::conv1d_block_cuda {

using cuda::BFloat16;
using cuda::FromFloat;
using cuda::kPack;
using cuda::Pack;
using cuda::ToFloat;

// 1 / (1 + exp(-u))
__host__ __device__ inline float Sigmoid(float u) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, 1.0f + __expf(-u));
#else
  return 1.0f / (1.0f + std::exp(-u));
#endif
}
__host__ __device__ inline float AffineSwish(float x, float2 affine) {
  const float u = x * affine.x + affine.y;
  return u * Sigmoid(u);
}
// Of dh and x: du = dh d(u sigmoid(u))/du.
__host__ __device__ inline float SwishGradient(float dh, float u) {
  const float s = Sigmoid(u);
  return dh * s * (1.0f + u * (1.0f - s));
}

// One 16-byte pack as float32, and back.
template <class T>
__device__ inline void LoadPack(const T* from, float (&to)[kPack<T>]) {
  const auto pack = cuda::Load<kPack<T>>(from);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) to[i] = ToFloat(pack.values[i]);
}
template <class T>
__device__ inline void StorePack(T* to, const float (&from)[kPack<T>]) {
  Pack<T, kPack<T>> pack;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) pack.values[i] = FromFloat<T>(from[i]);
  cuda::Store(to, pack);
}
// x[from .. from + count) as float32, zeros behind it.
template <class T, int N>
__device__ inline void LoadUpTo(const T* from, int count, float (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = i < count ? ToFloat(from[i]) : 0.0f;
}

template <class T, int kThreads, int kChunk>
struct TileLoader {
  static constexpr int kVec = kPack<T>;
  static constexpr int kPlanes = kChunk / kVec;
  static_assert(kThreads % kPlanes == 0, "a thread keeps its plane");

  // A share of the rows of a tile: `part` of `parts`.
  struct Part {
    int part = 0, parts = 1;
  };

  // Calls visit(shared row, clip, input row, inside) for the rows of this thread's plane.
  template <class Visit>
  __device__ static void ForRows(const ConvJob& job, const Step& step, int v0, int tile_rows,
                                 int thread, Part part, const Visit& visit) {
    const Operand& op = job.operand[step.operand];
    const int rows = tile_rows + step.TileTaps(op) - 1;
    const int first = step.WeightTap(op) - step.Shift() * op.stride - op.pad;
    constexpr int kRowsAtOnce = kThreads / kPlanes;
    const int turns = CeilDiv(rows, kRowsAtOnce);
    const int begin = turns * part.part / part.parts * kRowsAtOnce;
    const int end = Min(turns * (part.part + 1) / part.parts * kRowsAtOnce, rows);
    for (int r = begin + thread / kPlanes; r < end; r += kRowsAtOnce) {
      const int clip = job.period.Quotient(v0 + r);
      const int row = job.period.Remainder(v0 + r, clip) * op.stride + first;
      visit(r, clip, row, clip < job.batch && row >= 0 && row < op.time);
    }
  }

  __device__ static int64_t Index(const Operand& op, int clip, int row, int channel) {
    return (static_cast<int64_t>(clip) * op.time + row) * op.channels + channel;
  }

  __device__ static void IssueX(const ConvJob& job, const Step& step, int v0, int tile_rows,
                                int thread, uint32_t to) {
    const Operand& op = job.operand[step.operand];
    if (!op.vectors) return;
    const int plane = thread % kPlanes, channel = step.chunk * kChunk + plane * kVec;
    const uint32_t column = to + plane * job.x_stride * 16;
    const T* x = static_cast<const T*>(op.x);
    ForRows(job, step, v0, tile_rows, thread, Part(),
            [&](int shared_row, int clip, int row, bool inside) {
              inside = inside && channel < op.channels;
              ptx::CpAsync16(column + shared_row * 16,
                             inside ? x + Index(op, clip, row, channel) : x, inside);
            });
  }

  // `to` is the same place as a pointer.
  __device__ static void FinishX(const ConvJob& job, const Step& step, int v0, int tile_rows,
                                 int thread, unsigned char* to, Part part = {}) {
    const Operand& op = job.operand[step.operand];
    if (op.vectors && op.affine == nullptr && op.mix == nullptr) return;
    const int plane = thread % kPlanes, channel = step.chunk * kChunk + plane * kVec;
    T* column = reinterpret_cast<T*>(to + plane * job.x_stride * 16);
    const int count = Min(op.channels - channel, kVec);
    const float2* table = op.affine != nullptr ? op.affine : op.mix;
    float2 point[kVec];
    int loaded = -1;
    ForRows(job, step, v0, tile_rows, thread, part,
            [&](int shared_row, int clip, int row, bool inside) {
              T* at = column + shared_row * kVec;
              float value[kVec];
              if (!inside || count <= 0) {
                if (op.vectors) return;  // zeros already
                LoadUpTo(at, 0, value);
                StorePack(at, value);
                return;
              }
              if (table != nullptr && clip != loaded) {
                const float2* from = table + static_cast<int64_t>(clip) * op.channels + channel;
#pragma unroll
                for (int i = 0; i < kVec; ++i)
                  point[i] = i < count ? from[i] : make_float2(0.0f, 0.0f);
                loaded = clip;
              }
              const int64_t index = Index(op, clip, row, channel);
              if (op.vectors) {
                LoadPack(at, value);
              } else {
                LoadUpTo(static_cast<const T*>(op.x) + index, count, value);
              }
              if (op.affine != nullptr) {
#pragma unroll
                for (int i = 0; i < kVec; ++i) value[i] = AffineSwish(value[i], point[i]);
              } else if (op.mix != nullptr) {
                float other[kVec];
                const T* from = static_cast<const T*>(op.other) + index;
                if (op.vectors) {
                  LoadPack(from, other);
                } else {
                  LoadUpTo(from, count, other);
                }
#pragma unroll
                for (int i = 0; i < kVec; ++i) value[i] += point[i].x + other[i] * point[i].y;
              }
              StorePack(at, value);
            });
  }

  // The weights of one tap: (kChunk of the reduction) x (kBlockN channels out). As they lie in
  // memory, rows are the reduction; transposed, rows are the channels out.
  template <bool kTransposed>
  static constexpr int kWeightRows = kTransposed ? kBlockN : kChunk;
  template <bool kTransposed>
  static constexpr int kWeightPlanes = (kTransposed ? kChunk : kBlockN) / kVec;
  template <bool kTransposed>
  static constexpr int kWeightStride =
      PlaneStride(kWeightRows<kTransposed>, kWeightPlanes<kTransposed>);
  template <bool kTransposed>
  static constexpr int kWeightBytes = kWeightPlanes<kTransposed> * kWeightStride<kTransposed> * 16;

  template <bool kTransposed>
  __device__ static void IssueWeight(const ConvJob& job, const Step& step, int n0, int thread,
                                     uint32_t to) {
    const Operand& op = job.operand[step.operand];
    constexpr int kPlanesOfWeight = kWeightPlanes<kTransposed>;
    const int plane = thread % kPlanesOfWeight;
    const int column = (kTransposed ? step.chunk * kChunk : n0) + plane * kVec;
    const int row0 = kTransposed ? n0 : step.chunk * kChunk;
    const T* tap_weight = static_cast<const T*>(op.weight) + step.WeightTap(op) * op.weight_tap;
#pragma unroll 4
    for (int r = thread / kPlanesOfWeight; r < kWeightRows<kTransposed>;
         r += kThreads / kPlanesOfWeight) {
      const bool inside = row0 + r < op.weight_rows && column < op.weight_columns;
      const T* from = tap_weight + static_cast<int64_t>(row0 + r) * op.weight_row + column;
      ptx::CpAsync16(to + (plane * kWeightStride<kTransposed> + r) * 16, inside ? from : tap_weight,
                     inside);
    }
  }
};

}  // namespace n2m::conv1d_block_cuda
