// Each pass of conv1d_block as a job: which rows it reads, through which weights, and what becomes
// of them on the way. The launchers in conv1d_block_cpu.cc run the jobs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_check.h"
#include "kernels/conv1d_block/conv1d_block_job.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_weight.h"
#include "noise2music/conv1d_block.h"

namespace n2m::conv1d_block {

// What the normalisation of one group comes to.
struct Moments {
  double mean = 0, variance = 0, rstd = 0;
  Moments(const float* sums, double n, double eps) {
    mean = sums[0] / n;
    variance = std::max(sums[1] / n - mean * mean, 0.0);
    rstd = 1.0 / std::sqrt(variance + eps);
  }
};
inline double GroupCount(const Conv1dBlockShape& s) {
  return static_cast<double>(s.time) * static_cast<double>(s.channels / s.groups);
}

// x as the convolution reads it: normalised and swished when groups > 0.
inline Source InputSource(Arena& arena, const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                          const float* sums) {
  Source source;
  source.x = in.x;
  source.dtype = s.dtype;
  source.time = s.time;
  source.channels = s.channels;
  if (s.groups == 0) return source;
  const int64_t padded = Padded(s.channels), width = s.channels / s.groups;
  float* mean = arena.Take<float>(s.batch * padded);
  float* gain = arena.Take<float>(s.batch * padded);
  source.offset = PadChannels(arena, in.offset, s.channels);
  if (mean == nullptr || s.time == 0) return source;
  std::fill(mean, mean + s.batch * padded, 0.0f);
  std::fill(gain, gain + s.batch * padded, 0.0f);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t g = 0; g < s.groups; ++g) {
      const Moments m(sums + (b * s.groups + g) * 2, GroupCount(s), s.eps);
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        mean[b * padded + c] = static_cast<float>(m.mean);
        gain[b * padded + c] = static_cast<float>(m.rstd * in.scale[c]);
      }
    }
  }
  source.mean = mean;
  source.gain = gain;
  return source;
}

// dy with the cotangent of the sums of y added on load.
inline Source CotangentSource(Arena& arena, const Conv1dBlockShape& s,
                              const Conv1dBlockCotangents& cot) {
  Source source;
  source.x = cot.dy;
  source.dtype = s.dtype;
  source.time = Conv1dBlockOutTime(s);
  source.channels = s.out_channels;
  if (s.out_groups == 0) return source;
  const int64_t padded = Padded(s.out_channels), width = s.out_channels / s.out_groups;
  float* add = arena.Take<float>(s.batch * padded);
  float* mul = arena.Take<float>(s.batch * padded);
  if (add == nullptr) return source;
  std::fill(add, add + s.batch * padded, 0.0f);
  std::fill(mul, mul + s.batch * padded, 0.0f);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t d = 0; d < s.out_channels; ++d) {
      const float* sums = cot.d_out_sums + (b * s.out_groups + d / width) * 2;
      add[b * padded + d] = sums[0];
      mul[b * padded + d] = 2.0f * sums[1];
    }
  }
  source.y = cot.y;
  source.add = add;
  source.mul = mul;
  return source;
}

inline WeightView Forwards(const void* data, DType dtype, int64_t in, int64_t out) {
  return {data, dtype, in, out, in * out, out, 1};
}
inline WeightView Transposed(const void* data, DType dtype, int64_t in, int64_t out) {
  return {data, dtype, out, in, in * out, 1, out};
}

inline ConvJob ForwardJob(Arena& arena, const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                          const float* sums, void* y) {
  ConvJob job;
  job.batch = s.batch;
  job.rows = job.out_time = Conv1dBlockOutTime(s);
  job.out_channels = s.out_channels;
  job.dtype = s.dtype;
  job.out = y;
  job.totals = s.out_groups > 0;
  Operand& main = job.operand[0];
  main.source = InputSource(arena, s, in, sums);
  main.weight = Forwards(in.weight, s.weight_dtype, s.channels, s.out_channels);
  main.step = s.stride;
  main.base = -PadBefore(s);
  main.span = s.kernel;
  Phase phase;
  phase.taps = s.kernel;
  job.phases = {phase};
  if (s.residual_channels > 0) {
    job.operands = 2;
    Operand& residual = job.operand[1];
    residual.source.x = in.residual;
    residual.source.dtype = s.dtype;
    residual.source.time = job.rows;
    residual.source.channels = s.residual_channels;
    residual.weight = Forwards(in.fc, s.weight_dtype, s.residual_channels, s.out_channels);
    job.second.taps = 1;
  }
  job.bias = PadChannels(arena, in.bias, s.out_channels);
  return job;
}

// dh row i gathers dy row t through tap k where t * stride + k - pad = i. With p = (i + pad) mod
// stride and u = (i + pad - p) / stride that is k = p + m * stride, t = u - m: `stride`
// convolutions of stride 1 over dy, each with every stride-th tap backwards, whose results
// interleave.
inline ConvJob InputGradientJob(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                                const Source& cotangent, const Source& x, void* dx) {
  const int64_t pad = PadBefore(s);
  const int64_t first = pad / s.stride;  // the smallest u of any phase
  ConvJob job;
  job.batch = s.batch;
  job.rows = s.time > 0 ? (s.time - 1 + pad) / s.stride - first + 1 : 0;
  job.out_channels = s.channels;
  job.out_time = s.time;
  job.out_step = s.stride;
  job.dtype = s.dtype;
  job.out = dx;
  job.totals = job.gradient = s.groups > 0;
  job.through = x;
  Operand& main = job.operand[0];
  main.source = cotangent;
  main.weight = Transposed(in.weight, s.weight_dtype, s.channels, s.out_channels);
  main.span = CeilDiv(s.kernel, s.stride);
  main.base = first - (main.span - 1);
  for (int64_t p = 0; p < s.stride; ++p) {
    Phase phase;
    phase.taps = p < s.kernel ? CeilDiv(s.kernel - p, s.stride) : 0;
    phase.shift = main.span - phase.taps;
    phase.tap_first = p + (phase.taps - 1) * s.stride;
    phase.tap_step = -s.stride;
    phase.out_first = first * s.stride + p - pad;
    job.phases.push_back(phase);
  }
  return job;
}

// dresidual = dy @ fc^T
inline ConvJob ResidualGradientJob(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                                   const Source& cotangent, void* dresidual) {
  ConvJob job;
  job.batch = s.batch;
  job.rows = job.out_time = Conv1dBlockOutTime(s);
  job.out_channels = s.residual_channels;
  job.dtype = s.dtype;
  job.out = dresidual;
  job.operand[0].source = cotangent;
  job.operand[0].weight = Transposed(in.fc, s.weight_dtype, s.residual_channels, s.out_channels);
  Phase phase;
  phase.taps = 1;
  job.phases = {phase};
  return job;
}

inline WeightJob WeightGradientJob(const Conv1dBlockShape& s, const Source& x,
                                   const Source& cotangent, float* dweight, float* dbias) {
  WeightJob job;
  job.batch = s.batch;
  job.rows = Conv1dBlockOutTime(s);
  job.taps = s.kernel;
  job.step = s.stride;
  job.base = -PadBefore(s);
  job.h = x;
  job.dy = cotangent;
  job.dweight = dweight;
  job.dbias = dbias;
  return job;
}

inline WeightJob FcGradientJob(const Conv1dBlockShape& s, const void* residual,
                               const Source& cotangent, float* dfc) {
  WeightJob job;
  job.batch = s.batch;
  job.rows = Conv1dBlockOutTime(s);
  job.h.x = residual;
  job.h.dtype = s.dtype;
  job.h.time = job.rows;
  job.h.channels = s.residual_channels;
  job.dy = cotangent;
  job.dweight = dfc;
  return job;
}

}  // namespace n2m::conv1d_block
