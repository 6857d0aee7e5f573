// The convolution with every thread both loading and multiplying: mma.sync for bfloat16 on any GPU
// since Ampere, and plain FFMA for float32.
//
//   for each chunk of channels (tile of x in one of two buffers, next one under way)
//     for each tap (weights in one of kStages buffers, next ones under way)
//       acc += x[rows moved by the tap] weight[tap]
#pragma once

#include "kernels/conv1d_block/conv1d_block_cuda_epilogue.cuh"

namespace n2m::conv1d_block_cuda {

// Four warps of 32 x 128 results on tensor cores.
struct MmaSync {
  using T = BFloat16;
  static constexpr int kThreads = 128, kChunk = 32, kStages = 3, kBlockM = 128, kSlabs = 2;
  static constexpr int kBlocksPerSm = 2;
  float acc[kSlabs][16][4] = {};

  __device__ static int SlabRow(int warp, int slab) { return warp * 32 + slab * kSlab; }

  template <bool kTransposed, int kWeightStride>
  __device__ void Multiply(const unsigned char* x, int x_stride, const unsigned char* weight,
                           int thread) {
    const int lane = thread % 32, warp = thread / 32, eight = lane / 8;
    const uint32_t x_at = ptx::SmemAddress(x) +
                          (eight / 2 * x_stride + SlabRow(warp, 0) + eight % 2 * 8 + lane % 8) * 16;
    // Matrices 0, 1 are k = 0..7, 8..15 of eight channels out, matrices 2, 3 of the next eight.
    const uint32_t w_at = ptx::SmemAddress(weight) +
                          (kTransposed ? eight % 2 * kWeightStride + eight / 2 * 8 + lane % 8
                                       : eight / 2 * kWeightStride + eight % 2 * 8 + lane % 8) *
                              16;
#pragma unroll
    for (int k = 0; k < kChunk; k += 16) {
      uint32_t a[kSlabs][4];
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        ptx::LdMatrixX4(a[i], x_at + (k / 8 * x_stride + i * kSlab) * 16);
      }
#pragma unroll
      for (int n = 0; n < kBlockN; n += 16) {
        uint32_t b[4];
        if constexpr (kTransposed) {
          ptx::LdMatrixX4(b, w_at + (k / 8 * kWeightStride + n) * 16);
        } else {
          ptx::LdMatrixX4Trans(b, w_at + (n / 8 * kWeightStride + k) * 16);
        }
#pragma unroll
        for (int i = 0; i < kSlabs; ++i) {
          ptx::MmaM16N8K16(acc[i][n / 8], a[i], b[0], b[1]);
          ptx::MmaM16N8K16(acc[i][n / 8 + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  __device__ void Stage(int slab, int thread, float* staging) const {
    StageFragments(acc[slab], thread % 32, staging);
  }
};

// 256 threads of 8 x 8 results: columns 4 i .. 4 i + 3 and 64 + 4 i .. of lane i % 16.
struct Ffma {
  using T = float;
  static constexpr int kThreads = 256, kChunk = 16, kStages = 3, kBlockM = 128, kSlabs = 1;
  static constexpr int kBlocksPerSm = 1;  // two would leave 128 registers, of which some spill
  float acc[8][8] = {};

  __device__ static int SlabRow(int warp, int /*slab*/) { return warp * kSlab; }

  template <bool kTransposed, int kWeightStride>
  __device__ void Multiply(const unsigned char* x, int x_stride, const unsigned char* weight,
                           int thread) {
    const float4* x_rows = reinterpret_cast<const float4*>(x) + thread / 16 * 8;
    const float4* w = reinterpret_cast<const float4*>(weight);
    const int tx = thread % 16;
#pragma unroll 1
    for (int k = 0; k < kChunk; k += 4) {
      float a[8][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) Unpack(x_rows[k / 4 * x_stride + i], a[i]);
#pragma unroll
      for (int n = 0; n < 8; n += 4) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // four k of one column, or four columns of one k
          float b[4];
          Unpack(kTransposed ? w[k / 4 * kWeightStride + n * 16 + tx * 4 + j]
                             : w[(n * 4 + tx) * kWeightStride + k + j],
                 b);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              if constexpr (kTransposed) {
                acc[i][n + j] += a[i][c] * b[c];
              } else {
                acc[i][n + c] += a[i][j] * b[c];
              }
            }
          }
        }
      }
    }
  }

  __device__ static void Unpack(float4 from, float (&to)[4]) {
    to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
  }

  __device__ void Stage(int /*slab*/, int thread, float* staging) const {
    float* rows = staging + thread % 32 / 16 * 8 * kStagingPitch + thread % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        *reinterpret_cast<float4*>(rows + i * kStagingPitch + j * 16) =
            float4{acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]};
      }
    }
  }
};

template <class Math>
using LoaderOf = TileLoader<typename Math::T, Math::kThreads, Math::kChunk>;

// Shared memory: two tiles of x, kStages of weights; the epilogue lies over them.
template <class Math, bool kTransposed>
__host__ __device__ int MultistageBytes(int x_tile_bytes) {
  return Max(2 * x_tile_bytes + Math::kStages * LoaderOf<Math>::template kWeightBytes<kTransposed>,
             EpilogueBytes(Math::kThreads / 32, Math::kBlockM));
}

// Grid: (tiles of rows times tiles of channels, the latter faster: neighbours read the same x;
// splits).
template <class Math, bool kTransposed>
__global__ void __launch_bounds__(Math::kThreads, Math::kBlocksPerSm)
    n2m_conv1d_block_multistage(const __grid_constant__ ConvJob job, int x_tile_bytes) {
  using Loader = LoaderOf<Math>;
  constexpr int kChunk = Math::kChunk, kStages = Math::kStages, kBlockM = Math::kBlockM;
  constexpr int kWeightBytes = Loader::template kWeightBytes<kTransposed>;
  N2M_DYNAMIC_SHARED(unsigned char, shared);
  unsigned char* const weights = shared + 2 * x_tile_bytes;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int n_tiles = CeilDiv(job.results.out_channels, kBlockN);
  const int tile = blockIdx.x / n_tiles, n0 = blockIdx.x % n_tiles * kBlockN;
  const int v0 = tile * kBlockM, split = blockIdx.y;
  const Share share(job, kChunk, split);
  const int steps = share.steps;

  Math math;
  Step now = share.first, weight_step = now, x_step = now;
  const auto issue_weight = [&](int s) {
    if (s < steps) {
      Loader::template IssueWeight<kTransposed>(
          job, weight_step, n0, thread, ptx::SmemAddress(weights + s % kStages * kWeightBytes));
      weight_step.Next(job, kChunk);
    }
  };
  const auto x_tile = [&](const Step& step) { return shared + step.x % 2 * x_tile_bytes; };
  const auto issue_x = [&](const Step& step) {
    Loader::IssueX(job, step, v0, kBlockM, thread, ptx::SmemAddress(x_tile(step)));
  };
  const auto finish_x = [&](const Step& step) {
    Loader::FinishX(job, step, v0, kBlockM, thread, x_tile(step));
  };
  if (steps > 0) {
    issue_x(x_step);
    ptx::CpAsyncCommit();
    for (int s = 0; s < kStages - 1; ++s) {
      issue_weight(s);
      ptx::CpAsyncCommit();
    }
    ptx::CpAsyncWait<kStages - 1>();
    finish_x(x_step);
  }
  for (int s = 0; s < steps; ++s) {
    const Operand& op = job.operand[now.operand];
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();  // step s has arrived, and nobody reads the buffers of step s - 1 any more
    issue_weight(s + kStages - 1);
    if (now.FirstOfTile()) {
      x_step.NextX(job, kChunk);
      if (share.Holds(job, x_step, kChunk)) issue_x(x_step);
    }
    ptx::CpAsyncCommit();
    math.template Multiply<kTransposed, Loader::template kWeightStride<kTransposed>>(
        x_tile(now) + now.Shift() * 16, job.x_stride, weights + s % kStages * kWeightBytes, thread);
    if (now.LastOfTile(op) && share.Holds(job, x_step, kChunk)) {
      // x went with the group of this tile's first tap: one group a tap came after it.
      if (now.TileTaps(op) >= kStages) {
        ptx::CpAsyncWait<kStages - 1>();
      } else {
        ptx::CpAsyncWait<0>();
      }
      finish_x(x_step);
    }
    now.Next(job, kChunk);
  }
  ptx::CpAsyncWait<0>();
  __syncthreads();
  const int64_t rows_of_all = static_cast<int64_t>(gridDim.x / n_tiles) * kBlockM;
  float* const staging = reinterpret_cast<float*>(shared + warp * kStagingBytes);
  float* const sums = reinterpret_cast<float*>(shared + Math::kThreads / 32 * kStagingBytes);
#pragma unroll
  for (int slab = 0; slab < Math::kSlabs; ++slab) {
    const int row = Math::SlabRow(warp, slab);
    math.Stage(slab, thread, staging);
    __syncwarp();
    if (job.splits > 1) {
      WriteShare(job, split, rows_of_all, v0 + row, n0, lane, staging);
    } else {
      WriteSlab<typename Math::T>(job, v0 + row, n0, lane, staging, sums + row / kSlab * kSlabSums);
    }
    __syncwarp();
  }
  if (job.splits > 1) return;
  __syncthreads();
  WriteSums(job, tile, kBlockM, n0, thread, Math::kThreads, sums);
}

}  // namespace n2m::conv1d_block_cuda
