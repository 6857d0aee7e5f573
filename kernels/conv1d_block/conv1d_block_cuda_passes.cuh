// The small kernels around the convolution: tables of the normalisation, copies of weights and
// activations, sums over rows. Sums are made in two stages whose order the shape alone decides.
#pragma once

#include "kernels/conv1d_block/conv1d_block_cuda_load.cuh"

namespace n2m::conv1d_block_cuda {

constexpr int kPassThreads = 256;

__device__ inline int64_t GlobalThread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// What the normalisation of one group comes to.
struct Moments {
  double mean, variance, rstd;
  __host__ __device__ Moments(const float* sums, double count, double eps)
      : mean(sums[0] / count), variance(sums[1] / count - mean * mean) {
    if (variance < 0) variance = 0;
    rstd = 1.0 / sqrt(variance + eps);
  }
};

// affine (batch, channels) = (rstd scale, offset - mean rstd scale), and mean if not null.
__global__ void n2m_conv1d_block_affine(const float* sums, const float* scale, const float* offset,
                                        int64_t items, int channels, int width, double count,
                                        float eps, float2* affine, float* mean) {
  const int64_t i = GlobalThread();
  if (i >= items) return;
  const int c = static_cast<int>(i % channels);
  const Moments m(sums + i / width * 2, count, eps);
  const double gain = m.rstd * scale[c];
  affine[i] = make_float2(static_cast<float>(gain), static_cast<float>(offset[c] - m.mean * gain));
  if (mean != nullptr) mean[i] = static_cast<float>(m.mean);
}

// mix (batch, channels) = (d_sums[..., 0], 2 d_sums[..., 1]) of the group of the channel.
__global__ void n2m_conv1d_block_mix(const float* d_sums, int64_t items, int width, float2* mix) {
  const int64_t i = GlobalThread();
  if (i >= items) return;
  mix[i] = make_float2(d_sums[i / width * 2], 2.0f * d_sums[i / width * 2 + 1]);
}

// (rows, columns) of From as (rows, padded) of To, zeros behind the columns.
template <class From, class To>
__global__ void n2m_conv1d_block_cast(const From* from, int64_t rows, int columns, int padded,
                                      To* to) {
  const int64_t i = GlobalThread();
  if (i >= rows * padded) return;
  const int64_t row = i / padded;
  const int column = static_cast<int>(i % padded);
  to[i] = FromFloat<To>(column < columns ? ToFloat(from[row * columns + column]) : 0.0f);
}

// x as the gradient of a weight multiplies it, normalised and swished or mixed, once for all taps:
// (batch time, channels) as (batch time, padded). A thread takes one 16-byte pack of the result.
template <class T>
__global__ void n2m_conv1d_block_apply(Operand op, int64_t rows, int padded, T* to) {
  constexpr int kVec = kPack<T>;
  const int64_t i = GlobalThread(), row = i / (padded / kVec);
  if (row >= rows) return;
  const int channel = static_cast<int>(i % (padded / kVec)) * kVec;
  const int count = Min(op.channels - channel, kVec);
  const int64_t index = row * op.channels + channel;
  const int64_t table = row / op.time * op.channels + channel;
  float value[kVec];
  if (op.vectors) {
    LoadPack(static_cast<const T*>(op.x) + index, value);
  } else {
    LoadUpTo(static_cast<const T*>(op.x) + index, count, value);
  }
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    if (j >= count) continue;
    if (op.affine != nullptr) value[j] = AffineSwish(value[j], op.affine[table + j]);
    if (op.mix != nullptr) {
      const float2 mix = op.mix[table + j];
      value[j] += mix.x + ToFloat(static_cast<const T*>(op.other)[index + j]) * mix.y;
    }
  }
  StorePack(to + i * kVec, value);
}

// Where the sums of a tile of rows stand; see TileClips.
struct Partials {
  const float* data = nullptr;  // (phases, tiles, most, 2, channels)
  FastDivisor period;
  int tile_rows = 1, tiles = 0, most = 1, channels = 0, phases = 1;

  __host__ __device__ int64_t size() const {
    return static_cast<int64_t>(phases) * tiles * most * 2 * channels;
  }
  // The sum over the tiles of a clip, by one warp; in every lane.
  __device__ double Total(int clip, int which, int channel, int lane) const {
    const int64_t start = static_cast<int64_t>(clip) * period.divisor;
    const int first = static_cast<int>(start / tile_rows);
    const int last = Min(static_cast<int>((start + period.divisor - 1) / tile_rows), tiles - 1);
    double total = 0;
    for (int phase = 0; phase < phases; ++phase) {
      for (int t = first + lane; t <= last; t += cuda::kWarp) {
        const int slot = clip - period.Quotient(t * tile_rows);
        total += data[(((static_cast<int64_t>(phase) * tiles + t) * most + slot) * 2 + which) *
                          channels +
                      channel];
      }
    }
    return cuda::WarpSum(total);
  }
};

// First stage where no convolution makes the sums: of x (batch, time, channels), mixed if op.mix,
// over `rows` rows and the squares of the same. Grid: (batch tiles_a_clip, tiles of 128 channels).
template <class T>
__global__ void __launch_bounds__(kPassThreads)
    n2m_conv1d_block_column_sums(Operand op, int rows, int tiles_a_clip, float* partial) {
  constexpr int kColumns = 8, kGroups = kPassThreads / (kBlockN / kColumns);
  __shared__ float shared[kGroups][2][kBlockN];
  const int group = threadIdx.x / (kBlockN / kColumns);
  const int column = threadIdx.x % (kBlockN / kColumns) * kColumns;
  const int channel = blockIdx.y * kBlockN + column, clip = blockIdx.x / tiles_a_clip;
  const int first = blockIdx.x % tiles_a_clip * rows, last = Min(first + rows, op.time);
  const int count = Min(op.channels - channel, kColumns);
  float sum0[kColumns] = {}, sum1[kColumns] = {};
  for (int row = first + group; row < last; row += kGroups) {
    const int64_t index = (static_cast<int64_t>(clip) * op.time + row) * op.channels + channel;
    float value[kColumns];
    LoadUpTo(static_cast<const T*>(op.x) + index, count, value);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (i >= count) continue;
      if (op.mix != nullptr) {
        const float2 mix = op.mix[static_cast<int64_t>(clip) * op.channels + channel + i];
        value[i] += mix.x + ToFloat(static_cast<const T*>(op.other)[index + i]) * mix.y;
      }
      sum0[i] += value[i];
      sum1[i] += value[i] * value[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    shared[group][0][column + i] = sum0[i];
    shared[group][1][column + i] = sum1[i];
  }
  __syncthreads();
  const int which = threadIdx.x / kBlockN, mine = threadIdx.x % kBlockN;
  if (static_cast<int>(blockIdx.y) * kBlockN + mine >= op.channels) return;
  float total = 0;
  for (int g = 0; g < kGroups; ++g) total += shared[g][which][mine];
  partial[(static_cast<int64_t>(blockIdx.x) * 2 + which) * op.channels + blockIdx.y * kBlockN +
          mine] = total;
}

// The sum of one value a warp, in every thread of the block.
__device__ inline double SumOfWarps(double value, double* shared) {
  __syncthreads();
  if (threadIdx.x % cuda::kWarp == 0) shared[threadIdx.x / cuda::kWarp] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kPassThreads / cuda::kWarp; ++w) total += shared[w];
  return total;
}

// Second stage. A block takes a clip and group of channels; a warp takes every eighth channel.
__global__ void __launch_bounds__(kPassThreads)
    n2m_conv1d_block_finish_sums(Partials partials, int groups, float* sums) {
  __shared__ double shared[kPassThreads / cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int clip = blockIdx.x / groups, width = partials.channels / groups;
  const int first = blockIdx.x % groups * width;
  for (int which = 0; which < 2; ++which) {
    double mine = 0;
    for (int c = warp; c < width; c += kPassThreads / cuda::kWarp) {
      mine += partials.Total(clip, which, first + c, lane);
    }
    const double total = SumOfWarps(mine, shared);
    if (threadIdx.x == 0) sums[blockIdx.x * 2 + which] = static_cast<float>(total);
  }
}

// With P = sum_t du and Q = sum_t du (x - mean) a channel: doffset = P, dscale = rstd Q, dmean =
// -rstd sum_c scale P, dvar = -rstd^3 / 2 sum_c scale Q, and from mean = s0 / n, var = s1 / n -
// mean^2: ds0 = (dmean - 2 mean dvar) / n, ds1 = dvar / n.
__global__ void __launch_bounds__(kPassThreads)
    n2m_conv1d_block_finish_norm(Partials partials, const float* sums, const float* scale,
                                 int groups, double count, float eps, float* dscale, float* doffset,
                                 float* dsums) {
  __shared__ double shared[kPassThreads / cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int clip = blockIdx.x / groups, width = partials.channels / groups;
  const int first = blockIdx.x % groups * width;
  const Moments m(sums + blockIdx.x * 2, count, eps);
  double mean_pull = 0, spread_pull = 0;
  for (int c = warp; c < width; c += kPassThreads / cuda::kWarp) {
    const double p = partials.Total(clip, 0, first + c, lane);
    const double q = partials.Total(clip, 1, first + c, lane);
    mean_pull += scale[first + c] * p;
    spread_pull += scale[first + c] * q;
    if (lane == 0) {
      const int64_t at = static_cast<int64_t>(clip) * partials.channels + first + c;
      doffset[at] = static_cast<float>(p);
      dscale[at] = static_cast<float>(m.rstd * q);
    }
  }
  mean_pull = SumOfWarps(mean_pull, shared);
  spread_pull = SumOfWarps(spread_pull, shared);
  if (threadIdx.x > 0) return;
  const double dmean = -m.rstd * mean_pull;
  const double dvar = m.variance > 0 ? -0.5 * m.rstd * m.rstd * m.rstd * spread_pull : 0.0;
  dsums[blockIdx.x * 2] = static_cast<float>((dmean - 2.0 * m.mean * dvar) / count);
  dsums[blockIdx.x * 2 + 1] = static_cast<float>(dvar / count);
}

// out[i] = sum of `parts` arrays, in order: (parts, size) -> (size).
__global__ void n2m_conv1d_block_add_parts(const float* from, int parts, int64_t size, float* out) {
  const int64_t i = GlobalThread();
  if (i >= size) return;
  double total = 0;
  for (int p = 0; p < parts; ++p) total += from[p * size + i];
  out[i] = static_cast<float>(total);
}

// dbias (channels): the first sums over all clips. A warp takes a channel.
__global__ void __launch_bounds__(kPassThreads)
    n2m_conv1d_block_finish_bias(Partials partials, int batch, float* dbias) {
  const int lane = threadIdx.x % cuda::kWarp;
  const int channel = static_cast<int>(GlobalThread() / cuda::kWarp);
  if (channel >= partials.channels) return;
  double total = 0;
  for (int clip = 0; clip < batch; ++clip) total += partials.Total(clip, 0, channel, lane);
  if (lane == 0) dbias[channel] = static_cast<float>(total);
}

}  // namespace n2m::conv1d_block_cuda
