// From accumulators to memory: a warp lays 16 rows of 128 results into its own staging rows in
// shared memory, in whatever order its instructions left them, and takes them up again in rows,
// eight columns a lane. Here happen bias, rounding, the way back through swish and normalisation,
// and the sums over rows, in an order that depends on nothing but the shape.
#pragma once

#include "kernels/conv1d_block/conv1d_block_cuda_load.cuh"

namespace n2m::conv1d_block_cuda {

constexpr int kStagingPitch = kBlockN + 8;  // floats; 8 more keep eight rows in different banks
constexpr int kStagingBytes = kSlab * kStagingPitch * 4;
constexpr int kLaneColumns = 8;
constexpr int kSlabSums = kSlabClips * 2 * kBlockN;  // floats: (clip, which, column)

// Shared memory that the epilogue needs: staging rows a warp, sums a slab.
__host__ __device__ inline int EpilogueBytes(int warps, int tile_rows) {
  return warps * kStagingBytes + tile_rows / kSlab * kSlabSums * 4;
}

// The accumulators of a 16 x 128 tile of tensor cores, in tiles of 8 columns.
__device__ inline void StageFragments(const float (&acc)[16][4], int lane, float* staging) {
#pragma unroll
  for (int tile = 0; tile < 16; ++tile) {
    float* at = staging + lane / 4 * kStagingPitch + tile * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(at) = make_float2(acc[tile][0], acc[tile][1]);
    *reinterpret_cast<float2*>(at + 8 * kStagingPitch) = make_float2(acc[tile][2], acc[tile][3]);
  }
}

// Eight floats as two 16-byte reads, in an order that keeps eight lanes in different banks.
__device__ inline void ReadStaged(const float* at, int lane, float (&value)[kLaneColumns]) {
  const int second = lane >> 2 & 1;
  const float4 a = *reinterpret_cast<const float4*>(at + 4 * second);
  const float4 b = *reinterpret_cast<const float4*>(at + 4 * (1 - second));
  const float4 low = second ? b : a, high = second ? a : b;
  value[0] = low.x, value[1] = low.y, value[2] = low.z, value[3] = low.w;
  value[4] = high.x, value[5] = high.y, value[6] = high.z, value[7] = high.w;
}

template <class T>
__device__ inline void StoreUpTo(T* to, int count, bool vectors,
                                 const float (&value)[kLaneColumns]) {
  constexpr int kVec = kPack<T>;
  if (vectors && count >= kLaneColumns) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; i += kVec) {
      float part[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) part[j] = value[i + j];
      StorePack(to + i, part);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) {
    if (i < count) to[i] = FromFloat<T>(value[i]);
  }
}

// Rows v0 .. v0 + 15 of the virtual axis, columns n0 .. n0 + 127. slab_sums: kSlabSums floats.
template <class T>
__device__ inline void WriteSlab(const ConvJob& job, int v0, int n0, int lane, const float* staging,
                                 float* slab_sums) {
  const Results& results = job.results;
  const int half = lane / 16, column = lane % 16 * kLaneColumns, channel = n0 + column;
  const int count = Min(results.out_channels - channel, kLaneColumns);
  const int first = job.period.Quotient(v0);
  const int clips = Min(job.period.Quotient(v0 + kSlab - 1), job.batch - 1) - first + 1;
  T* out = static_cast<T*>(results.out);
  float bias[kLaneColumns];
  LoadUpTo(results.bias + channel, results.bias != nullptr ? count : 0, bias);
  for (int s = 0; s < clips; ++s) {
    const int clip = first + s;
    const int start = clip * static_cast<int>(job.period.divisor);
    const int64_t table = static_cast<int64_t>(clip) * results.out_channels + channel;
    float2 affine[kLaneColumns];
    float mean[kLaneColumns], sum0[kLaneColumns], sum1[kLaneColumns];
    if (results.through != nullptr) {
      LoadUpTo(results.mean + table, count, mean);
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        affine[i] = i < count ? results.affine[table + i] : make_float2(0.0f, 0.0f);
      }
    }
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) sum0[i] = sum1[i] = 0.0f;
    for (int r = half; r < kSlab; r += 2) {
      const int u = v0 + r - start, row = u * results.out_step + results.out_first;
      if (u < 0 || u >= job.rows || row < 0 || row >= results.out_time || count <= 0) continue;
      float value[kLaneColumns];
      ReadStaged(staging + r * kStagingPitch + column, lane, value);
      const int64_t index =
          (static_cast<int64_t>(clip) * results.out_time + row) * results.out_channels + channel;
      if (results.through != nullptr) {
        float x[kLaneColumns];
        LoadUpTo(static_cast<const T*>(results.through) + index, count, x);
#pragma unroll
        for (int i = 0; i < kLaneColumns; ++i) {
          const float du = SwishGradient(value[i], x[i] * affine[i].x + affine[i].y);
          value[i] = du * affine[i].x;
          sum0[i] += du;
          sum1[i] += du * (x[i] - mean[i]);
        }
        StoreUpTo(out + index, count, results.vectors, value);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        value[i] = ToFloat(FromFloat<T>(value[i] + bias[i]));  // the sums are of y as stored
        sum0[i] += value[i];
        sum1[i] += value[i] * value[i];
      }
      StoreUpTo(out + index, count, results.vectors, value);
    }
    if (results.partial == nullptr) continue;
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      sum0[i] += __shfl_xor_sync(cuda::kEveryLane, sum0[i], 16);
      sum1[i] += __shfl_xor_sync(cuda::kEveryLane, sum1[i], 16);
      if (half == 0) {
        slab_sums[s * 2 * kBlockN + column + i] = sum0[i];
        slab_sums[(s * 2 + 1) * kBlockN + column + i] = sum1[i];
      }
    }
  }
}

// A slab of a share of the reduction, as it is: row `row` and columns n0 .. n0 + 127 of all tiles.
__device__ inline int64_t ShareIndex(const ConvJob& job, int split, int64_t tile_rows_of_all,
                                     int64_t row, int column) {
  const int columns = CeilDiv(job.results.out_channels, kBlockN) * kBlockN;
  return (split * tile_rows_of_all + row) * columns + column;
}
__device__ inline void WriteShare(const ConvJob& job, int split, int64_t rows_of_all, int64_t row,
                                  int n0, int lane, const float* staging) {
  const int column = lane % 16 * kLaneColumns;
  for (int r = lane / 16; r < kSlab; r += 2) {
    float value[kLaneColumns];
    ReadStaged(staging + r * kStagingPitch + column, lane, value);
    StoreUpTo(job.shares + ShareIndex(job, split, rows_of_all, row + r, n0 + column), kLaneColumns,
              true, value);
  }
}

// Adds up the slabs of a tile, in order, for each clip that it meets. All threads that wrote slabs
// have met at a barrier.
__device__ inline void WriteSums(const ConvJob& job, int tile, int tile_rows, int n0, int thread,
                                 int threads, const float* all_slab_sums) {
  const Results& results = job.results;
  if (results.partial == nullptr) return;
  const int period = static_cast<int>(job.period.divisor), v0 = tile * tile_rows;
  const int most = TileClips(tile_rows, period), first = job.period.Quotient(v0);
  const int clips = Min(job.period.Quotient(v0 + tile_rows - 1), job.batch - 1) - first + 1;
  for (int item = thread; item < clips * 2 * kBlockN; item += threads) {
    const int column = item % kBlockN, which = item / kBlockN % 2, s = item / (2 * kBlockN);
    if (n0 + column >= results.out_channels) continue;
    const int start = (first + s) * period - v0;  // rows of the tile that are of this clip
    const int begin = Max(start, 0), end = Min(start + period, tile_rows);
    float total = 0.0f;
    for (int slab = begin / kSlab; slab < CeilDiv(end, kSlab); ++slab) {
      const int slot = first + s - job.period.Quotient(v0 + slab * kSlab);
      total += all_slab_sums[slab * kSlabSums + (slot * 2 + which) * kBlockN + column];
    }
    results.partial[((static_cast<int64_t>(tile) * most + s) * 2 + which) * results.out_channels +
                    n0 + column] = total;
  }
}

// Where the reduction was split: adds the shares of a tile of 128 x 128 in order, and does with the
// sums what the convolution would have done. Grid as there; `rows_of_all` rows a share.
constexpr int kFinishThreads = 256, kFinishRows = kFinishThreads / 32 * kSlab;

template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    n2m_conv1d_block_finish_shares(const __grid_constant__ ConvJob job, int rows_of_all) {
  N2M_DYNAMIC_SHARED(unsigned char, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int n_tiles = CeilDiv(job.results.out_channels, kBlockN);
  const int tile = blockIdx.x / n_tiles, n0 = blockIdx.x % n_tiles * kBlockN;
  const int v0 = tile * kFinishRows + warp * kSlab;
  float* const staging = reinterpret_cast<float*>(shared + warp * kStagingBytes);
  float* const sums = reinterpret_cast<float*>(shared + kFinishThreads / 32 * kStagingBytes);
  const int splits =
      v0 < rows_of_all ? job.splits : 0;  // the last tile may reach behind the shares
  for (int r = 0; r < kSlab; ++r) {
    float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int split = 0; split < splits; ++split) {
      const float4 part = *reinterpret_cast<const float4*>(
          job.shares + ShareIndex(job, split, rows_of_all, v0 + r, n0 + lane * 4));
      total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
    }
    *reinterpret_cast<float4*>(staging + r * kStagingPitch + lane * 4) = total;
  }
  __syncwarp();
  WriteSlab<T>(job, v0, n0, lane, staging, sums + warp * kSlabSums);
  __syncthreads();
  WriteSums(job, tile, kFinishRows, n0, thread, kFinishThreads, sums);
}

}  // namespace n2m::conv1d_block_cuda
