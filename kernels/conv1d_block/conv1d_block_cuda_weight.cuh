// The gradient of a weight, a matrix product over time:
//
//   dweight[k,c,d] = sum over clips b and rows u of h[b, u stride + k - pad, c] dy[b,u,d]
//
// A block takes one tap, 128 channels in and 128 out, and a share of the steps over time (split-K);
// the shares are added in order afterwards. h and dy come as they are: what normalises or mixes
// them has run before (n2m_conv1d_block_apply), since every tap and every tile of the other side
// would do it again.
#pragma once

#include "kernels/conv1d_block/conv1d_block_cuda_multistage.cuh"

namespace n2m::conv1d_block_cuda {

struct WeightJob {
  const void* h = nullptr;    // (batch, time, h_row)
  const void* dy = nullptr;   // (batch, rows, dy_row)
  int h_row = 0, dy_row = 0;  // elements a row: channels, padded to packs
  int channels = 0, out_channels = 0;
  int batch = 0, time = 0, rows = 0;
  int taps = 1, stride = 1, pad = 0;
  int steps_a_clip = 0;            // of so many rows as a kernel takes at once
  int steps = 0, split_steps = 0;  // of all clips, and of one share
  float* out = nullptr;            // (splits, taps, channels, out_channels)
  bool vectors = true;             // rows of out are made of aligned 16-byte packs
};

// Four warps of 32 x 128, both operands turned: shared rows are time.
struct WeightMmaSync : MmaSync {
  static constexpr int kTime = 32, kStages = 4;
  template <int kStride>
  __device__ void MultiplyTime(const unsigned char* h, const unsigned char* dy, int thread) {
    const int lane = thread % 32, warp = thread / 32, eight = lane / 8;
    const uint32_t h_at =
        ptx::SmemAddress(h) +
        ((SlabRow(warp, 0) / 8 + eight % 2) * kStride + eight / 2 * 8 + lane % 8) * 16;
    const uint32_t dy_at =
        ptx::SmemAddress(dy) + (eight / 2 * kStride + eight % 2 * 8 + lane % 8) * 16;
#pragma unroll
    for (int k = 0; k < kTime; k += 16) {
      uint32_t a[kSlabs][4];
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        ptx::LdMatrixX4Trans(a[i], h_at + (i * kSlab / 8 * kStride + k) * 16);
      }
#pragma unroll
      for (int n = 0; n < kBlockN; n += 16) {
        uint32_t b[4];
        ptx::LdMatrixX4Trans(b, dy_at + (n / 8 * kStride + k) * 16);
#pragma unroll
        for (int i = 0; i < kSlabs; ++i) {
          ptx::MmaM16N8K16(acc[i][n / 8], a[i], b[0], b[1]);
          ptx::MmaM16N8K16(acc[i][n / 8 + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
};

struct WeightFfma : Ffma {
  static constexpr int kTime = 16, kStages = 4, kBlocksPerSm = 2;
  template <int kStride>
  __device__ void MultiplyTime(const unsigned char* h, const unsigned char* dy, int thread) {
    const float4* left = reinterpret_cast<const float4*>(h) + thread / 16 * 2 * kStride;
    const float4* right = reinterpret_cast<const float4*>(dy) + thread % 16 * kStride;
#pragma unroll 4
    for (int t = 0; t < kTime; ++t) {
      float a[8], b[8];
      UnpackTwo(left[t], left[kStride + t], a);
      UnpackTwo(right[t], right[16 * kStride + t], b);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[i][j] += a[i] * b[j];
      }
    }
  }
  __device__ static void UnpackTwo(float4 low, float4 high, float (&to)[8]) {
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  }
};

// A tile of (kTime rows) x (kColumns columns), in planes.
template <class T, int kTime, int kColumns, int kThreads>
struct TimeTile {
  static constexpr int kPlanes = kColumns / kPack<T>;
  static constexpr int kStride = PlaneStride(kTime, kPlanes);
  static constexpr int kBytes = kPlanes * kStride * 16;
  static_assert(kThreads % kPlanes == 0, "a thread keeps its plane");

  // Row r of the tile is row first + r * step of `from` (time, row_elements) if that is inside.
  __device__ static void Issue(const T* from, int row_elements, int time, int first, int step,
                               int rows, int column0, int thread, uint32_t to) {
    const int plane = thread % kPlanes, column = column0 + plane * kPack<T>;
#pragma unroll 4
    for (int r = thread / kPlanes; r < kTime; r += kThreads / kPlanes) {
      const int row = first + r * step;
      const bool inside = r < rows && row >= 0 && row < time && column < row_elements;
      const int64_t index = static_cast<int64_t>(row) * row_elements + column;
      ptx::CpAsync16(to + (plane * kStride + r) * 16, inside ? from + index : from, inside);
    }
  }
};

// The share of the work that a block takes.
struct WeightBlock {
  int c0, d0, tap, split, begin, steps;
  __device__ WeightBlock(const WeightJob& job, int tile)
      : c0(blockIdx.x * tile),
        d0(blockIdx.y * kBlockN),
        tap(blockIdx.z % job.taps),
        split(blockIdx.z / job.taps),
        begin(split * job.split_steps),
        steps(Max(Min(job.split_steps, job.steps - begin), 0)) {}

  // Starts the copies of step s: kTime rows of h into `to`, of dy behind it.
  template <class T, int kTime, int kTile, int kThreads>
  __device__ void Issue(const WeightJob& job, int s, int thread, uint32_t to) const {
    using H = TimeTile<T, kTime, kTile, kThreads>;
    using Dy = TimeTile<T, kTime, kBlockN, kThreads>;
    if (s < steps) {
      const int clip = (begin + s) / job.steps_a_clip;
      const int u = (begin + s) % job.steps_a_clip * kTime;
      const int rows = Min(job.rows - u, kTime);
      const int64_t h_clip = static_cast<int64_t>(clip) * job.time * job.h_row;
      const int64_t dy_clip = static_cast<int64_t>(clip) * job.rows * job.dy_row;
      H::Issue(static_cast<const T*>(job.h) + h_clip, job.h_row, job.time,
               u * job.stride + tap - job.pad, job.stride, rows, c0, thread, to);
      Dy::Issue(static_cast<const T*>(job.dy) + dy_clip, job.dy_row, job.rows, u, 1, rows, d0,
                thread, to + H::kBytes);
    }
    ptx::CpAsyncCommit();
  }

  // Sixteen rows of results, from the staging rows of a warp; `row` of the tile is the first.
  __device__ void Write(const WeightJob& job, int row, int lane, const float* staging) const {
    const int column = lane % 16 * kLaneColumns;
    const int count = Min(job.out_channels - d0 - column, kLaneColumns);
    for (int r = lane / 16; r < kSlab; r += 2) {
      const int c = c0 + row + r;
      if (c >= job.channels || count <= 0) continue;
      float value[kLaneColumns];
      ReadStaged(staging + r * kStagingPitch + column, lane, value);
      const int64_t at = (static_cast<int64_t>(split) * job.taps + tap) * job.channels + c;
      StoreUpTo(job.out + at * job.out_channels + d0 + column, count, job.vectors, value);
    }
  }
};

template <class Math>
using MathTile = TimeTile<typename Math::T, Math::kTime, kBlockN, Math::kThreads>;

template <class Math>
__host__ __device__ constexpr int WeightBytes() {
  return Max(Math::kStages * 2 * MathTile<Math>::kBytes, Math::kThreads / 32 * kStagingBytes);
}

// Grid: (tiles of channels in, tiles of channels out, taps times splits).
template <class Math>
__global__ void __launch_bounds__(Math::kThreads, Math::kBlocksPerSm)
    n2m_conv1d_block_weight(const __grid_constant__ WeightJob job) {
  using Tile = MathTile<Math>;
  constexpr int kStages = Math::kStages;
  N2M_DYNAMIC_SHARED(unsigned char, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const WeightBlock block(job, kBlockN);
  const auto issue = [&](int s) {
    block.Issue<typename Math::T, Math::kTime, kBlockN, Math::kThreads>(
        job, s, thread, ptx::SmemAddress(shared + s % kStages * 2 * Tile::kBytes));
  };
  Math math;
  for (int s = 0; s < kStages - 1; ++s) issue(s);
  for (int s = 0; s < block.steps; ++s) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();
    issue(s + kStages - 1);
    const unsigned char* h = shared + s % kStages * 2 * Tile::kBytes;
    math.template MultiplyTime<Tile::kStride>(h, h + Tile::kBytes, thread);
  }
  ptx::CpAsyncWait<0>();
  __syncthreads();
  float* const staging = reinterpret_cast<float*>(shared + warp * kStagingBytes);
#pragma unroll
  for (int slab = 0; slab < Math::kSlabs; ++slab) {
    math.Stage(slab, thread, staging);
    __syncwarp();
    block.Write(job, Math::SlabRow(warp, slab), lane, staging);
    __syncwarp();
  }
}

// The same on Hopper: two warpgroups, each 64 kSlabs channels in. wgmma runs while its warps start
// the copies of later steps; a buffer is filled again two steps after it was multiplied, when both
// warpgroups have waited for that.
template <int kSlabCount>
struct WeightWgmma {
  using T = BFloat16;
  static constexpr int kSlabs = kSlabCount, kTile = 128 * kSlabs, kThreads = 256;
  static constexpr int kTime = 64, kStages = 4;
  using H = TimeTile<T, kTime, kTile, kThreads>;
  using Dy = TimeTile<T, kTime, kBlockN, kThreads>;
  static constexpr int kStageBytes = H::kBytes + Dy::kBytes;
  static constexpr int kBytes = Max(kStages * kStageBytes, kThreads / 32 * kStagingBytes);
};

template <class Math>
__global__ void __launch_bounds__(Math::kThreads, 1)
    n2m_conv1d_block_weight_wgmma(const __grid_constant__ WeightJob job) {
#ifdef N2M_HAS_WGMMA
  using H = typename Math::H;
  using Dy = typename Math::Dy;
  constexpr int kStages = Math::kStages, kSlabs = Math::kSlabs;
  N2M_DYNAMIC_SHARED(unsigned char, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const WeightBlock block(job, Math::kTile);
  const uint32_t address = ptx::SmemAddress(shared);
  const auto issue = [&](int s) {
    block.Issue<typename Math::T, Math::kTime, Math::kTile, Math::kThreads>(
        job, s, thread, address + s % kStages * Math::kStageBytes);
  };
  float acc[kSlabs][16][4] = {};
  for (int s = 0; s < kStages - 1; ++s) issue(s);
  for (int s = 0; s < block.steps; ++s) {
    ptx::CpAsyncWait<kStages - 2>();
    ptx::FenceProxyAsync();
    __syncthreads();  // step s has arrived, and both warpgroups have multiplied step s - 1
    const uint32_t h = address + s % kStages * Math::kStageBytes;
    const uint32_t own = h + thread / 128 * kSlabs * 64 / 8 * H::kStride * 16;
    ptx::WgmmaFence();
#pragma unroll
    for (int k = 0; k < Math::kTime; k += 16) {
      const uint64_t b = PlanesMnMajor(h + H::kBytes + k * 16, Dy::kStride);
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const uint64_t a = PlanesMnMajor(own + (i * 8 * H::kStride + k) * 16, H::kStride);
        ptx::WgmmaM64N128K16<true, true>(acc[i], a, b);
      }
    }
    ptx::WgmmaCommit();
    issue(s + kStages - 1);
    ptx::WgmmaWait<0>();
  }
  ptx::CpAsyncWait<0>();
  __syncthreads();
  float* const staging = reinterpret_cast<float*>(shared + warp * kStagingBytes);
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    StageFragments(acc[slab], lane, staging);
    __syncwarp();
    block.Write(job, warp / 4 * kSlabs * 64 + slab * 64 + warp % 4 * kSlab, lane, staging);
    __syncwarp();
  }
#endif
}

}  // namespace n2m::conv1d_block_cuda
