// The launchers of n2m::cuda in noise2music/conv1d_block.h.
#include <string>

#include "kernels/conv1d_block/conv1d_block_cuda_launch.cuh"
#include "noise2music/conv1d_block.h"

namespace n2m::cuda {

int64_t GroupSumsScratch(int64_t batch, int64_t time, int64_t channels, int64_t /*groups*/) {
  if (channels < 1 || !ProductFits({batch, time, channels})) return 0;
  Arena arena(nullptr);
  arena.Take<float>(ColumnPartials(time, channels, batch).size());
  return arena.floats();
}

Status GroupSums(const void* x, DType dtype, int64_t batch, int64_t time, int64_t channels,
                 int64_t groups, float* sums, void* scratch, void* stream) {
  Conv1dBlockShape s;
  s.batch = batch, s.time = time, s.channels = s.out_channels = channels;
  s.kernel = 1, s.groups = groups;
  N2M_RETURN_IF_NOT_OK(CheckSizes(s));
  const Partials partials = ColumnPartials(time, channels, batch);
  Arena arena(scratch);
  float* const data = arena.Take<float>(partials.size());
  N2M_RETURN_IF_NOT_OK(
      LaunchColumnSums(SourceOf(x, time, channels, dtype), dtype, partials, data, batch, stream));
  return FinishSums(partials, data, batch, groups, sums, stream);
}

namespace {

struct ForwardScratch {
  Arena arena;
  Tables tables;
  PackedWeight weight, fc;
  float *sums = nullptr, *partial = nullptr, *shares = nullptr;
  void* for_sums = nullptr;
  ForwardScratch(const Conv1dBlockShape& s, const Conv1dBlockInputs& in, void* base)
      : arena(base),
        tables(arena, s, false),
        weight(arena, s, in.weight, s.kernel * s.channels),
        fc(arena, s, in.fc, s.residual_channels) {
    if (s.groups > 0 && in.sums == nullptr) {
      sums = arena.Take<float>(s.batch * s.groups * 2);
      for_sums = arena.Take<float>(GroupSumsScratch(s.batch, s.time, s.channels, s.groups));
    }
    const ConvJob job = ForwardJob(s, in, tables, weight, fc, nullptr);
    shares = arena.Take<float>(MostShareFloats(job));
    if (s.out_groups > 0) partial = arena.Take<float>(PartialFloats(job, 1));
  }
};

}  // namespace

int64_t Conv1dBlockFwdScratch(const Conv1dBlockShape& s) {
  if (!CheckSizes(s).ok()) return 0;
  return ForwardScratch(s, {}, nullptr).arena.floats();
}

Status Conv1dBlockFwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in, void* y,
                      float* out_sums, void* scratch, void* stream) {
  N2M_RETURN_IF_NOT_OK(CheckSizes(s));
  const ForwardScratch use(s, in, scratch);
  if (s.batch * s.time > 0) {
    const float* sums = in.sums;
    if (use.sums != nullptr) {
      N2M_RETURN_IF_NOT_OK(GroupSums(in.x, s.dtype, s.batch, s.time, s.channels, s.groups, use.sums,
                                     use.for_sums, stream));
      sums = use.sums;
    }
    N2M_RETURN_IF_NOT_OK(MakeTables(use.tables, s, in, sums, nullptr, stream));
    N2M_RETURN_IF_NOT_OK(Prepare(use.weight, s, stream));
    N2M_RETURN_IF_NOT_OK(Prepare(use.fc, s, stream));
  }
  ConvJob job = ForwardJob(s, in, use.tables, use.weight, use.fc, y);
  const Plan plan = PlanConv(job, s.dtype == DType::kBFloat16, false, CurrentGpu());
  job.results.partial = use.partial;
  N2M_RETURN_IF_NOT_OK(LaunchConv(job, plan, false, use.shares, stream));
  if (s.out_groups == 0) return Status::Ok();
  Partials partials = PartialsOf(job, plan.SumRows(), 1);
  if (job.rows == 0) partials.phases = 0;
  return FinishSums(partials, use.partial, s.batch, s.out_groups, out_sums, stream);
}

namespace {

struct BackwardScratch {
  Arena arena;
  Tables tables;
  PackedWeight weight, fc;
  float *partial = nullptr, *shares = nullptr;
  BackwardScratch(const Conv1dBlockShape& s, const Conv1dBlockInputs& in, void* base)
      : arena(base),
        tables(arena, s, true),
        weight(arena, s, in.weight, s.kernel * s.channels),
        fc(arena, s, in.fc, s.residual_channels) {
    const Operand dy = CotangentOf(s, {}, tables);
    const ConvJob job = InputGradientJob(s, dy, in, tables, weight, 0, nullptr);
    int64_t most = MostShareFloats(job);
    if (s.residual_channels > 0) {
      most = std::max(most, MostShareFloats(ResidualGradientJob(s, dy, fc, nullptr)));
    }
    shares = arena.Take<float>(most);
    if (s.groups > 0) partial = arena.Take<float>(PartialFloats(job, ToInt(s.stride)));
  }
};

}  // namespace

int64_t Conv1dBlockBwdScratch(const Conv1dBlockShape& s) {
  if (!CheckSizes(s).ok()) return 0;
  return BackwardScratch(s, {}, nullptr).arena.floats();
}

Status Conv1dBlockBwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                      const Conv1dBlockCotangents& cotangents, const Conv1dBlockGradients& out,
                      void* scratch, void* stream) {
  N2M_RETURN_IF_NOT_OK(CheckSizes(s));
  if (s.groups > 0 && in.sums == nullptr) return SumsMissing();
  const BackwardScratch use(s, in, scratch);
  const bool bfloat16 = s.dtype == DType::kBFloat16;
  const Gpu gpu = CurrentGpu();
  const bool empty = s.batch * s.time == 0;
  if (!empty) {
    N2M_RETURN_IF_NOT_OK(MakeTables(use.tables, s, in, in.sums, cotangents.d_out_sums, stream));
    N2M_RETURN_IF_NOT_OK(Prepare(use.weight, s, stream));
    N2M_RETURN_IF_NOT_OK(Prepare(use.fc, s, stream));
  }
  const Operand cotangent = CotangentOf(s, cotangents, use.tables);
  Partials partials;
  Plan plan;
  for (int phase = 0; phase < ToInt(s.stride) && !empty; ++phase) {
    ConvJob job = InputGradientJob(s, cotangent, in, use.tables, use.weight, phase, out.dx);
    if (phase == 0) {
      plan = PlanConv(job, bfloat16, true, gpu);
      partials = PartialsOf(job, plan.SumRows(), ToInt(s.stride));
    }
    if (use.partial != nullptr) {
      job.results.partial = use.partial + phase * (partials.size() / partials.phases);
    }
    N2M_RETURN_IF_NOT_OK(LaunchConv(job, plan, true, use.shares, stream));
  }
  if (s.residual_channels > 0 && !empty) {
    const ConvJob job = ResidualGradientJob(s, cotangent, use.fc, out.dresidual);
    N2M_RETURN_IF_NOT_OK(
        LaunchConv(job, PlanConv(job, bfloat16, true, gpu), true, use.shares, stream));
  }
  if (s.groups == 0) return Status::Ok();
  partials.data = use.partial;
  partials.channels = ToInt(s.channels);
  if (empty) partials.phases = 0;
  return LaunchPass(n2m_conv1d_block_finish_norm, s.batch * s.groups * kPassThreads, stream,
                    partials, in.sums, in.scale, ToInt(s.groups), std::max(GroupCount(s), 1.0),
                    s.eps, out.dscale, out.doffset, out.dsums);
}

namespace {

struct WeightScratch {
  Arena arena;
  Tables tables;
  WeightJob main, fc;
  int splits = 1, fc_splits = 1;
  void *h = nullptr, *residual = nullptr, *dy = nullptr;  // copies, null where none is needed
  float *parts = nullptr, *bias = nullptr;
  WeightScratch(const Conv1dBlockShape& s, void* base) : arena(base), tables(arena, s, true) {
    const int64_t rows = Conv1dBlockOutTime(s);
    main = WeightGradientJob(s, s.time, s.channels, ToInt(s.kernel), ToInt(s.stride),
                             ToInt(PadBefore(s)));
    splits = Splits(main);
    if (s.residual_channels > 0) {
      fc = WeightGradientJob(s, rows, s.residual_channels, 1, 1, 0);
      fc_splits = Splits(fc);
    }
    if (s.groups > 0 || main.h_row != s.channels) h = Copy(s, s.batch * s.time * main.h_row);
    if (fc.h_row != s.residual_channels) residual = Copy(s, s.batch * rows * fc.h_row);
    if (s.out_groups > 0 || main.dy_row != s.out_channels) {
      dy = Copy(s, s.batch * rows * main.dy_row);
    }
    const int64_t most = std::max(splits > 1 ? splits * WeightFloats(main) : 0,
                                  fc_splits > 1 ? fc_splits * WeightFloats(fc) : 0);
    parts = arena.Take<float>(most);
    bias = arena.Take<float>(ColumnPartials(rows, s.out_channels, s.batch).size());
  }
  void* Copy(const Conv1dBlockShape& s, int64_t elements) {
    return s.dtype == DType::kFloat32 ? static_cast<void*>(arena.Take<float>(elements))
                                      : arena.Take<BFloat16>(elements);
  }
};

Status LaunchApply(const Operand& op, DType dtype, int64_t batch, int padded, void* to,
                   void* stream) {
  const int64_t rows = batch * op.time, packs = rows * (padded / Vec(dtype));
  if (dtype == DType::kFloat32) {
    return LaunchPass(n2m_conv1d_block_apply<float>, packs, stream, op, rows, padded,
                      static_cast<float*>(to));
  }
  return LaunchPass(n2m_conv1d_block_apply<BFloat16>, packs, stream, op, rows, padded,
                    static_cast<BFloat16*>(to));
}

// `tile` channels in and 128 out a block, `time` rows a step.
Status LaunchWeightKernel(void (*kernel)(WeightJob), int tile, int time, int threads, int bytes,
                          WeightJob job, int splits, void* stream) {
  CutTime(&job, time, splits);
  const dim3 grid(static_cast<unsigned>(CeilDiv(job.channels, int64_t{tile})),
                  static_cast<unsigned>(CeilDiv(job.out_channels, int64_t{kBlockN})),
                  static_cast<unsigned>(job.taps * splits));
  if (grid.y > kMostGridY || grid.z > kMostGridY) {
    return Status::InvalidArgument(
        "n2m.conv1d_block: the gradient of weight must be of at most 65535 taps and 2^23 channels, "
        "got " +
        std::to_string(job.taps) + " and " + std::to_string(job.out_channels));
  }
  return Launch(kOp, kernel, grid, dim3(static_cast<unsigned>(threads)), static_cast<size_t>(bytes),
                stream, job);
}
template <class Math>
Status LaunchMultistage(const WeightJob& job, int splits, void* stream) {
  return LaunchWeightKernel(n2m_conv1d_block_weight<Math>, kBlockN, Math::kTime, Math::kThreads,
                            WeightBytes<Math>(), job, splits, stream);
}
template <int kSlabs>
Status LaunchWgmma(const WeightJob& job, int splits, void* stream) {
  using Math = WeightWgmma<kSlabs>;
  return LaunchWeightKernel(n2m_conv1d_block_weight_wgmma<Math>, Math::kTile, Math::kTime,
                            Math::kThreads, Math::kBytes, job, splits, stream);
}

Status LaunchWeight(WeightJob job, DType dtype, const Gpu& gpu, int splits, float* parts,
                    float* out, void* stream) {
  job.out = splits > 1 ? parts : out;
  job.vectors = job.out_channels % 4 == 0 && IsAligned(job.out);
  for (const void* p : {job.h, job.dy}) {
    if (!IsAligned(p)) {
      return Status::InvalidArgument(
          "n2m.conv1d_block: x, residual and dy must be aligned to 16 bytes, got another address");
    }
  }
  if (dtype == DType::kFloat32) {
    N2M_RETURN_IF_NOT_OK(LaunchMultistage<WeightFfma>(job, splits, stream));
  } else if (gpu.major != 9) {
    N2M_RETURN_IF_NOT_OK(LaunchMultistage<WeightMmaSync>(job, splits, stream));
  } else if (job.channels <= WeightWgmma<1>::kTile) {
    N2M_RETURN_IF_NOT_OK(LaunchWgmma<1>(job, splits, stream));
  } else {
    N2M_RETURN_IF_NOT_OK(LaunchWgmma<2>(job, splits, stream));
  }
  if (splits == 1) return Status::Ok();
  return LaunchPass(n2m_conv1d_block_add_parts, WeightFloats(job), stream,
                    static_cast<const float*>(parts), splits, WeightFloats(job), out);
}

}  // namespace

int64_t Conv1dBlockBwdWeightScratch(const Conv1dBlockShape& s) {
  if (!CheckSizes(s).ok()) return 0;
  return WeightScratch(s, nullptr).arena.floats();
}

Status Conv1dBlockBwdWeight(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                            const Conv1dBlockCotangents& cotangents, float* dweight, float* dbias,
                            float* dfc, void* scratch, void* stream) {
  N2M_RETURN_IF_NOT_OK(CheckSizes(s));
  if (s.groups > 0 && in.sums == nullptr) return SumsMissing();
  WeightScratch use(s, scratch);
  const Gpu gpu = CurrentGpu();
  const bool empty = s.batch * s.time == 0;
  if (!empty) {
    N2M_RETURN_IF_NOT_OK(MakeTables(use.tables, s, in, in.sums, cotangents.d_out_sums, stream));
  }
  const Operand x = InputOf(s, in.x, use.tables);
  const Operand dy = CotangentOf(s, cotangents, use.tables);
  use.main.h = use.h != nullptr ? use.h : in.x;
  use.main.dy = use.fc.dy = use.dy != nullptr ? use.dy : cotangents.dy;
  if (use.h != nullptr) {
    N2M_RETURN_IF_NOT_OK(LaunchApply(x, s.dtype, s.batch, use.main.h_row, use.h, stream));
  }
  if (use.dy != nullptr) {
    N2M_RETURN_IF_NOT_OK(LaunchApply(dy, s.dtype, s.batch, use.main.dy_row, use.dy, stream));
  }
  N2M_RETURN_IF_NOT_OK(
      LaunchWeight(use.main, s.dtype, gpu, use.splits, use.parts, dweight, stream));
  if (s.residual_channels > 0) {
    use.fc.h = use.residual != nullptr ? use.residual : in.residual;
    if (use.residual != nullptr) {
      const Operand residual = SourceOf(in.residual, dy.time, s.residual_channels, s.dtype);
      N2M_RETURN_IF_NOT_OK(
          LaunchApply(residual, s.dtype, s.batch, use.fc.h_row, use.residual, stream));
    }
    N2M_RETURN_IF_NOT_OK(LaunchWeight(use.fc, s.dtype, gpu, use.fc_splits, use.parts, dfc, stream));
  }
  if (dbias == nullptr) return Status::Ok();
  Partials partials = ColumnPartials(dy.time, s.out_channels, s.batch);
  partials.data = use.bias;
  N2M_RETURN_IF_NOT_OK(LaunchColumnSums(dy, s.dtype, partials, use.bias, s.batch, stream));
  return LaunchPass(n2m_conv1d_block_finish_bias, s.out_channels * kWarp, stream, partials,
                    ToInt(s.batch), dbias);
}

std::string Conv1dBlockPlan(const Conv1dBlockShape& s, int major, int processors) {
  if (Status status = CheckSizes(s); !status.ok()) return status.message();
  const Gpu gpu = {major, processors};
  const bool bfloat16 = s.dtype == DType::kBFloat16;
  const ForwardScratch forward(s, {}, nullptr);
  const BackwardScratch backward(s, {}, nullptr);
  const ConvJob y = ForwardJob(s, {}, forward.tables, forward.weight, forward.fc, nullptr);
  const ConvJob dx = InputGradientJob(s, CotangentOf(s, {}, backward.tables), {}, backward.tables,
                                      backward.weight, 0, nullptr);
  const WeightScratch weight(s, nullptr);
  return "forward: " + Describe(PlanConv(y, bfloat16, false, gpu)) +
         "\ninput gradient: " + Describe(PlanConv(dx, bfloat16, true, gpu)) +
         "\nweight gradient: " +
         (!bfloat16    ? "FFMA"
          : major == 9 ? "wgmma m64n128k16"
                       : "mma.sync m16n8k16") +
         ", time in " + std::to_string(weight.splits) + " parts";
}

}  // namespace n2m::cuda
