// From the shape of an op to jobs of the kernels: what is convolved with what, and where scratch
// lies.
#pragma once

#include <algorithm>

#include "kernels/conv1d_block/conv1d_block_check.h"
#include "kernels/conv1d_block/conv1d_block_cuda_passes.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_plan.h"
#include "kernels/conv1d_block/conv1d_block_cuda_weight.cuh"

namespace n2m::conv1d_block_cuda {

using conv1d_block::PadBefore;
using conv1d_block::SumsMissing;

// Hands out pieces of scratch; of nothing, it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<unsigned char*>(base)) {}
  template <class T>
  T* Take(int64_t count) {
    const int64_t at = used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  int64_t floats() const { return used_ / 4; }

 private:
  unsigned char* base_;
  int64_t used_ = 0;
};

inline int Vec(DType dtype) { return dtype == DType::kFloat32 ? kPack<float> : kPack<BFloat16>; }
inline int64_t ElementBytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }
inline int ToInt(int64_t size) { return static_cast<int>(size); }
inline int RoundUp(int64_t size, int to) { return static_cast<int>((size + to - 1) / to * to); }

// Kernels count rows and channels in 32 bits.
inline Status CheckSizes(const Conv1dBlockShape& s) {
  if (Status status = conv1d_block::Check(s); !status.ok()) return status;
  constexpr int64_t kMost = int64_t{1} << 30, kMostChannels = int64_t{1} << 24;
  const int64_t widest = std::max({s.channels, s.out_channels, s.residual_channels});
  const int64_t longest = s.time + s.kernel + 2 * kMinPeriod * s.stride;
  const bool fits = widest <= kMostChannels && s.kernel < kMost && s.stride < kMost / 64 &&
                    longest < kMost && ProductFits({s.batch, longest}) &&
                    s.batch * (longest / s.stride + 2) < kMost;
  if (fits) return Status::Ok();
  return Status::InvalidArgument(
      "n2m.conv1d_block: on CUDA batch * time must be below 2^30 and channels at most 2^24, got "
      "batch " +
      std::to_string(s.batch) + ", time " + std::to_string(s.time) + ", kernel " +
      std::to_string(s.kernel) + ", stride " + std::to_string(s.stride) + ", channels " +
      std::to_string(widest));
}

// Tables of the normalisation of x and of the cotangent of the sums of y.
struct Tables {
  float2* affine = nullptr;  // (batch, channels) with groups
  float* mean = nullptr;
  float2* mix = nullptr;  // (batch, out_channels) with out_groups, backwards
  Tables(Arena& arena, const Conv1dBlockShape& s, bool backward) {
    if (s.groups > 0) affine = arena.Take<float2>(s.batch * s.channels);
    if (s.groups > 0 && backward) mean = arena.Take<float>(s.batch * s.channels);
    if (s.out_groups > 0 && backward) mix = arena.Take<float2>(s.batch * s.out_channels);
  }
};

// A weight (rows, columns) as the kernels read it: of the dtype of x, rows of whole packs. `copy`
// is null where it is so already.
struct PackedWeight {
  const void* data = nullptr;
  void* copy = nullptr;
  int64_t rows = 0;
  int columns = 0, padded = 0;
  PackedWeight() = default;
  PackedWeight(Arena& arena, const Conv1dBlockShape& s, const void* from, int64_t row_count)
      : data(from), rows(row_count), columns(ToInt(s.out_channels)) {
    padded = RoundUp(columns, Vec(s.dtype));
    if (padded == columns && s.weight_dtype == s.dtype) return;
    copy = s.dtype == DType::kFloat32 ? static_cast<void*>(arena.Take<float>(rows * padded))
                                      : arena.Take<BFloat16>(rows * padded);
  }
  const void* use() const { return copy != nullptr ? copy : data; }
};

inline const char* At(const void* base, int64_t element, DType dtype) {
  return static_cast<const char*>(base) + element * ElementBytes(dtype);
}

inline Operand SourceOf(const void* x, int64_t time, int64_t channels, DType dtype) {
  Operand op;
  op.x = x;
  op.time = ToInt(time);
  op.channels = ToInt(channels);
  op.vectors = channels % Vec(dtype) == 0 && cuda::IsAligned(x);
  return op;
}

inline Operand InputOf(const Conv1dBlockShape& s, const void* x, const Tables& tables) {
  Operand op = SourceOf(x, s.time, s.channels, s.dtype);
  op.affine = tables.affine;
  return op;
}

inline Operand CotangentOf(const Conv1dBlockShape& s, const Conv1dBlockCotangents& cotangents,
                           const Tables& tables) {
  Operand op = SourceOf(cotangents.dy, Conv1dBlockOutTime(s), s.out_channels, s.dtype);
  op.mix = tables.mix;
  op.other = tables.mix != nullptr ? cotangents.y : nullptr;
  op.vectors = op.vectors && cuda::IsAligned(op.other);
  return op;
}

inline Results ResultsOf(void* out, int64_t time, int64_t channels, DType dtype) {
  Results results;
  results.out = out;
  results.out_time = ToInt(time);
  results.out_channels = ToInt(channels);
  results.vectors = channels % Vec(dtype) == 0 && cuda::IsAligned(out);
  return results;
}

inline ConvJob ForwardJob(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                          const Tables& tables, const PackedWeight& weight, const PackedWeight& fc,
                          void* y) {
  const int64_t rows = Conv1dBlockOutTime(s);
  ConvJob job;
  job.batch = ToInt(s.batch);
  job.rows = ToInt(rows);
  job.period = FastDivisor(Period(job.rows, ToInt(s.kernel), ToInt(s.stride)));
  Operand& main = job.operand[0] = InputOf(s, in.x, tables);
  main.weight = weight.use();
  main.weight_tap = s.channels * weight.padded;
  main.weight_row = main.weight_columns = weight.padded;
  main.weight_rows = ToInt(s.channels);
  main.taps = ToInt(s.kernel);
  main.stride = ToInt(s.stride);
  main.pad = ToInt(PadBefore(s));
  if (s.residual_channels > 0) {
    job.operands = 2;
    Operand& residual = job.operand[1] = SourceOf(in.residual, rows, s.residual_channels, s.dtype);
    residual.weight = fc.use();
    residual.weight_row = residual.weight_columns = fc.padded;
    residual.weight_rows = ToInt(s.residual_channels);
    residual.taps = 1;
  }
  job.results = ResultsOf(y, rows, s.out_channels, s.dtype);
  job.results.bias = in.bias;
  return job;
}

// dh row i gathers dy row t through tap k where t * stride + k - pad = i. With p = (i + pad) mod
// stride and u = (i + pad - p) / stride that is k = p + m * stride, t = u - m: for each phase p a
// convolution of stride 1 over dy with every stride-th tap backwards, whose results interleave.
inline ConvJob InputGradientJob(const Conv1dBlockShape& s, const Operand& cotangent,
                                const Conv1dBlockInputs& in, const Tables& tables,
                                const PackedWeight& weight, int phase, void* dx) {
  const int stride = ToInt(s.stride), kernel = ToInt(s.kernel);
  const int pad = ToInt(PadBefore(s)), first = pad / stride;
  const int taps = phase < kernel ? CeilDiv(kernel - phase, stride) : 0;
  ConvJob job;
  job.batch = ToInt(s.batch);
  job.rows = s.time > 0 ? (ToInt(s.time) - 1 + pad) / stride - first + 1 : 0;
  job.period = FastDivisor(Period(job.rows, CeilDiv(kernel, stride), 1));
  Operand& main = job.operand[0] = cotangent;
  const int64_t tap = s.channels * weight.padded;
  main.weight = At(weight.use(), taps > 0 ? (phase + (taps - 1) * stride) * tap : 0, s.dtype);
  main.weight_tap = -stride * tap;
  main.weight_row = main.weight_columns = weight.padded;
  main.weight_rows = ToInt(s.channels);
  main.taps = taps;
  main.pad = taps - 1 - first;
  job.results = ResultsOf(dx, s.time, s.channels, s.dtype);
  job.results.out_step = stride;
  job.results.out_first = first * stride + phase - pad;
  if (s.groups > 0) {
    job.results.through = in.x;
    job.results.affine = tables.affine;
    job.results.mean = tables.mean;
  }
  return job;
}

// dresidual = dy @ fc^T
inline ConvJob ResidualGradientJob(const Conv1dBlockShape& s, const Operand& cotangent,
                                   const PackedWeight& fc, void* dresidual) {
  ConvJob job;
  job.batch = ToInt(s.batch);
  job.rows = cotangent.time;
  job.period = FastDivisor(Period(job.rows, 1, 1));
  Operand& main = job.operand[0] = cotangent;
  main.weight = fc.use();
  main.weight_row = main.weight_columns = fc.padded;
  main.weight_rows = ToInt(s.residual_channels);
  main.taps = 1;
  job.results = ResultsOf(dresidual, job.rows, s.residual_channels, s.dtype);
  return job;
}

// The sums that the tiles of a job leave, with tiles of block_m rows.
inline Partials PartialsOf(const ConvJob& job, int block_m, int phases) {
  Partials partials;
  const int period = static_cast<int>(job.period.divisor);
  partials.period = job.period;
  partials.tile_rows = block_m;
  partials.tiles = RowTiles(job.batch, period, block_m);
  partials.most = TileClips(block_m, period);
  partials.channels = job.results.out_channels;
  partials.phases = phases;
  return partials;
}
// Floats of the shares of a split reduction, whichever kernel runs: chunks are 16 channels at
// least.
inline int64_t MostShareFloats(const ConvJob& job) {
  int64_t most = 0;
  for (int block_m : Wgmma::kBlockM) {
    most = std::max(most, ShareFloats(job, block_m, MostSplits(job, block_m, Ffma::kChunk)));
  }
  return most;
}
// Floats for the sums, whichever kernel runs.
inline int64_t PartialFloats(const ConvJob& job, int phases) {
  int64_t most = 0;
  for (int block_m : Wgmma::kBlockM) most = std::max(most, PartialsOf(job, block_m, phases).size());
  return most;
}

constexpr int kSumRows = 128;  // rows of a tile of n2m_conv1d_block_column_sums

inline Partials ColumnPartials(int64_t time, int64_t channels, int64_t batch) {
  Partials partials;
  const int a_clip = ToInt((time + kSumRows - 1) / kSumRows);
  partials.period = FastDivisor(Max(a_clip, 1) * kSumRows);
  partials.tile_rows = kSumRows;
  partials.tiles = ToInt(batch) * a_clip;
  partials.channels = ToInt(channels);
  return partials;
}

// The gradient of a weight of `taps` taps; h and dy are set by the caller.
inline WeightJob WeightGradientJob(const Conv1dBlockShape& s, int64_t time, int64_t channels,
                                   int taps, int stride, int pad) {
  WeightJob job;
  const int vec = Vec(s.dtype);
  job.h_row = RoundUp(channels, vec);
  job.dy_row = RoundUp(s.out_channels, vec);
  job.channels = ToInt(channels);
  job.out_channels = ToInt(s.out_channels);
  job.batch = ToInt(s.batch);
  job.time = ToInt(time);
  job.rows = ToInt(Conv1dBlockOutTime(s));
  job.taps = taps;
  job.stride = stride;
  job.pad = pad;
  return job;
}
// Cuts time into steps of so many rows, and those into shares.
inline void CutTime(WeightJob* job, int rows, int splits) {
  job->steps_a_clip = CeilDiv(job->rows, rows);
  job->steps = job->batch * job->steps_a_clip;
  job->split_steps = Max(CeilDiv(job->steps, splits), 1);
}
// Shares of the sum over time: by the shape alone, enough blocks of 128 x 128 for two a
// multiprocessor of the largest GPU, and at least 256 rows a share.
inline int Splits(const WeightJob& job) {
  constexpr int kBlocks = 264, kLeastRows = 256;
  const int64_t tiles = static_cast<int64_t>(CeilDiv(job.channels, kBlockN)) *
                        CeilDiv(job.out_channels, kBlockN) * job.taps;
  const int64_t most = std::max<int64_t>(int64_t{job.batch} * job.rows / kLeastRows, 1);
  return static_cast<int>(std::min<int64_t>(std::max<int64_t>(kBlocks / tiles, 1), most));
}
inline int64_t WeightFloats(const WeightJob& job) {
  return static_cast<int64_t>(job.taps) * job.channels * job.out_channels;
}

}  // namespace n2m::conv1d_block_cuda
