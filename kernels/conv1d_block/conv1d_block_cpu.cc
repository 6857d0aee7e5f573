#include "noise2music/conv1d_block.h"

#include <algorithm>
#include <memory>
#include <string>

#include "kernels/conv1d_block/conv1d_block_amx.h"
#include "kernels/conv1d_block/conv1d_block_amx_weight.h"
#include "kernels/conv1d_block/conv1d_block_check.h"
#include "kernels/conv1d_block/conv1d_block_conv.h"
#include "kernels/conv1d_block/conv1d_block_passes.h"
#include "kernels/conv1d_block/conv1d_block_plan.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_toom_cook.h"
#include "kernels/conv1d_block/conv1d_block_toom_weight.h"
#include "kernels/conv1d_block/conv1d_block_weight.h"

namespace n2m {
namespace {

using namespace conv1d_block;  // NOLINT: the room's own names

// A job by the algorithm that the planner picked, for it and for its residual.
class Convolution {
 public:
  Convolution(const Form& form, const ConvJob& job, Arena& arena, int threads,
              const Form& residual = {}) {
    if (form.amx) {
      amx_ = std::make_unique<AmxConv>(job, arena, threads);
    } else if (form.direct()) {
      direct_ = std::make_unique<Conv>(job, arena, threads);
    } else {
      toom_cook_ = std::make_unique<ToomCook>(job, form, residual, arena, threads);
    }
  }
  void Run(Executor& executor) {
    amx_ ? amx_->Run(executor) : direct_ ? direct_->Run(executor) : toom_cook_->Run(executor);
  }
  double Total(int64_t item, int which, int64_t n) const {
    return amx_      ? amx_->Total(item, which, n)
           : direct_ ? direct_->Total(item, which, n)
                     : toom_cook_->Total(item, which, n);
  }

 private:
  std::unique_ptr<AmxConv> amx_;
  std::unique_ptr<Conv> direct_;
  std::unique_ptr<ToomCook> toom_cook_;
};

int64_t Floats(const Arena& arena) { return CeilDiv(arena.used(), 4); }

}  // namespace

int64_t Conv1dBlockOutTime(const Conv1dBlockShape& s) { return CeilDiv(s.time, s.stride); }

bool ParseConv1dAlgorithm(const std::string& name, Conv1dAlgorithm* algorithm) {
  return ParseAlgorithm(name, algorithm);
}

std::string Conv1dBlockPlan(const Conv1dBlockShape& s) {
  return "forward: " + Describe(PlanForward(s)) +
         (WeightsAreTheLimit(s) ? ", few rows: reading the weights is the limit" : "") +
         "\ninput gradient: " + Describe(PlanInputGradient(s)) +
         "\nweight gradient: " + DescribeWeight(PlanWeightGradient(s));
}

namespace {

// Rows of x a task of GroupSums adds up.
int64_t SumsRows(int64_t channels) {
  return std::max<int64_t>((16 << 10) / channels / kFlushRows, 1) * kFlushRows;
}

struct SumsPlan {
  int64_t rows, per_item, columns;
  double* partial;
  SumsPlan(Arena& arena, int64_t batch, int64_t time, int64_t channels)
      : rows(SumsRows(channels)),
        per_item(CeilDiv(time, rows)),
        columns(RoundUp(channels, PanelWidth())),
        partial(arena.Take<double>(batch * per_item * 2 * columns)) {}
};

}  // namespace

int64_t GroupSumsScratch(int64_t batch, int64_t time, int64_t channels, int64_t /*groups*/) {
  Arena arena(nullptr);
  SumsPlan plan(arena, batch, time, std::max<int64_t>(channels, 1));
  return Floats(arena);
}

Status GroupSums(const void* x, DType dtype, int64_t batch, int64_t time, int64_t channels,
                 int64_t groups, float* sums, void* scratch, Executor& executor) {
  if (groups < 1 || channels < 1 || channels % groups != 0) {
    return Status::InvalidArgument("n2m.conv1d_block: groups must be a positive divisor of C=" +
                                   std::to_string(channels) + ", got " + std::to_string(groups));
  }
  Arena arena(scratch);
  const SumsPlan plan(arena, batch, time, channels);
  ParallelFor(executor, batch * plan.per_item, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % plan.per_item * plan.rows;
      double* partial = plan.partial + i * 2 * plan.columns;
      std::fill(partial, partial + 2 * plan.columns, 0.0);
      const int64_t at = (i / plan.per_item * time + row) * channels * ElementBytes(dtype);
      Totals_Run({static_cast<const char*>(x) + at, dtype, std::min(plan.rows, time - row),
                  channels, partial, partial + plan.columns});
    }
  });
  const int64_t width = channels / groups;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int which = 0; which < 2; ++which) {
        double total = 0;
        for (int64_t t = 0; t < plan.per_item; ++t) {
          const double* from =
              plan.partial + ((b * plan.per_item + t) * 2 + which) * plan.columns + g * width;
          for (int64_t c = 0; c < width; ++c) total += from[c];
        }
        sums[(b * groups + g) * 2 + which] = static_cast<float>(total);
      }
    }
  }
  return Status::Ok();
}

int64_t Conv1dBlockFwdScratch(const Conv1dBlockShape& s, int threads) {
  if (!Check(s).ok()) return 0;
  Arena arena(nullptr);
  const ConvJob job = ForwardJob(arena, s, {}, nullptr, nullptr);
  Convolution conv(PlanForward(s), job, arena, threads, PlanResidual(s));
  const int64_t sums = s.groups > 0 ? s.batch * s.groups * 2 + 32 +
                                          GroupSumsScratch(s.batch, s.time, s.channels, s.groups)
                                    : 0;
  return Floats(arena) + sums;
}

Status Conv1dBlockFwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in, void* y,
                      float* out_sums, void* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  Arena arena(scratch);
  const float* sums = in.sums;
  if (s.groups > 0 && sums == nullptr) {
    float* own = arena.Take<float>(s.batch * s.groups * 2);
    float* temporary = arena.Take<float>(GroupSumsScratch(s.batch, s.time, s.channels, s.groups));
    Status status =
        GroupSums(in.x, s.dtype, s.batch, s.time, s.channels, s.groups, own, temporary, executor);
    if (!status.ok()) return status;
    sums = own;
  }
  const ConvJob job = ForwardJob(arena, s, in, sums, y);
  Convolution conv(PlanForward(s), job, arena, executor.num_threads(), PlanResidual(s));
  conv.Run(executor);
  const int64_t width = s.out_groups > 0 ? s.out_channels / s.out_groups : 0;
  for (int64_t i = 0; i < s.batch * s.out_groups; ++i) {
    for (int which = 0; which < 2; ++which) {
      double total = 0;
      for (int64_t c = 0; c < width; ++c) {
        total += conv.Total(i / s.out_groups, which, i % s.out_groups * width + c);
      }
      out_sums[i * 2 + which] = static_cast<float>(total);
    }
  }
  return Status::Ok();
}

int64_t Conv1dBlockBwdScratch(const Conv1dBlockShape& s, int threads) {
  if (!Check(s).ok()) return 0;
  Arena arena(nullptr);
  const Source x = InputSource(arena, s, {}, nullptr);
  const Source cotangent = CotangentSource(arena, s, {});
  Convolution conv(PlanInputGradient(s), InputGradientJob(s, {}, cotangent, x, nullptr), arena,
                   threads);
  if (s.residual_channels > 0) {
    Convolution residual(PlanResidual(s), ResidualGradientJob(s, {}, cotangent, nullptr), arena,
                         threads);
  }
  return Floats(arena);
}

Status Conv1dBlockBwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                      const Conv1dBlockCotangents& cotangents, const Conv1dBlockGradients& out,
                      void* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  if (s.groups > 0 && in.sums == nullptr) return SumsMissing();
  Arena arena(scratch);
  const Source x = InputSource(arena, s, in, in.sums);
  const Source cotangent = CotangentSource(arena, s, cotangents);
  Convolution conv(PlanInputGradient(s), InputGradientJob(s, in, cotangent, x, out.dx), arena,
                   executor.num_threads());
  conv.Run(executor);
  if (s.residual_channels > 0) {
    Convolution residual(PlanResidual(s), ResidualGradientJob(s, in, cotangent, out.dresidual),
                         arena, executor.num_threads());
    residual.Run(executor);
  }
  if (s.groups == 0) return Status::Ok();
  // With P = sum_t du and Q = sum_t du (x - mean) a channel:
  //   doffset = P, dscale = rstd Q, dmean = -rstd sum_c scale P, dvar = -rstd^3 / 2 sum_c scale Q,
  // and from mean = s0 / n, var = s1 / n - mean^2: ds0 = (dmean - 2 mean dvar) / n, ds1 = dvar / n.
  const int64_t width = s.channels / s.groups;
  const double n = GroupCount(s);
  for (int64_t i = 0; i < s.batch * s.groups; ++i) {
    const int64_t b = i / s.groups;
    if (s.time == 0) {
      out.dsums[2 * i] = out.dsums[2 * i + 1] = 0.0f;
      std::fill_n(out.dscale + i * width, width, 0.0f);
      std::fill_n(out.doffset + i * width, width, 0.0f);
      continue;
    }
    const Moments m(in.sums + 2 * i, n, s.eps);
    double mean_pull = 0, spread_pull = 0;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t c = i % s.groups * width + j;
      const double p = conv.Total(b, 0, c), q = conv.Total(b, 1, c);
      out.doffset[b * s.channels + c] = static_cast<float>(p);
      out.dscale[b * s.channels + c] = static_cast<float>(m.rstd * q);
      mean_pull += in.scale[c] * p;
      spread_pull += in.scale[c] * q;
    }
    const double dmean = -m.rstd * mean_pull;
    const double dvar = m.variance > 0 ? -0.5 * m.rstd * m.rstd * m.rstd * spread_pull : 0.0;
    out.dsums[2 * i] = static_cast<float>((dmean - 2.0 * m.mean * dvar) / n);
    out.dsums[2 * i + 1] = static_cast<float>(dvar / n);
  }
  return Status::Ok();
}

namespace {

class WeightConvolution {
 public:
  WeightConvolution(const Form& form, const WeightJob& job, Arena& arena, int threads) {
    if (form.amx) {
      amx_ = std::make_unique<AmxWeight>(job, arena, threads);
    } else if (form.direct()) {
      direct_ = std::make_unique<WeightGradient>(job, arena, threads);
    } else {
      toom_cook_ = std::make_unique<ToomCookWeight>(job, form, arena, threads);
    }
  }
  void Run(Executor& executor) {
    amx_ ? amx_->Run(executor) : direct_ ? direct_->Run(executor) : toom_cook_->Run(executor);
  }

 private:
  std::unique_ptr<AmxWeight> amx_;
  std::unique_ptr<WeightGradient> direct_;
  std::unique_ptr<ToomCookWeight> toom_cook_;
};

}  // namespace

int64_t Conv1dBlockBwdWeightScratch(const Conv1dBlockShape& s, int threads) {
  if (!Check(s).ok()) return 0;
  Arena arena(nullptr);
  const Source x = InputSource(arena, s, {}, nullptr);
  const Source cotangent = CotangentSource(arena, s, {});
  float none;
  WeightConvolution weight(PlanWeightGradient(s), WeightGradientJob(s, x, cotangent, &none, &none),
                           arena, threads);
  if (s.residual_channels > 0) {
    WeightConvolution fc(PlanResidual(s), FcGradientJob(s, nullptr, cotangent, nullptr), arena,
                         threads);
  }
  return Floats(arena);
}

Status Conv1dBlockBwdWeight(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                            const Conv1dBlockCotangents& cotangents, float* dweight, float* dbias,
                            float* dfc, void* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  if (s.groups > 0 && in.sums == nullptr) return SumsMissing();
  Arena arena(scratch);
  const Source x = InputSource(arena, s, in, in.sums);
  const Source cotangent = CotangentSource(arena, s, cotangents);
  WeightConvolution weight(PlanWeightGradient(s),
                           WeightGradientJob(s, x, cotangent, dweight, dbias), arena,
                           executor.num_threads());
  weight.Run(executor);
  if (s.residual_channels > 0) {
    WeightConvolution fc(PlanResidual(s), FcGradientJob(s, in.residual, cotangent, dfc), arena,
                         executor.num_threads());
    fc.Run(executor);
  }
  return Status::Ok();
}

}  // namespace n2m
