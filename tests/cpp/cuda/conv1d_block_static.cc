// What the convolution of each block shape asks of an H200, counted, not run: by the planner's own
// functions. Writes the table of docs/benchmarks/cuda_conv1d_static.md.
//
//   conv1d_block_static            the table
#include <cstdio>

#include "kernels/conv1d_block/conv1d_block_cuda_jobs.h"

namespace {

using namespace n2m::conv1d_block_cuda;
using n2m::Conv1dBlockShape;

// A multiprocessor of the H200: multiply-adds of bfloat16 and bytes of shared memory a clock.
constexpr double kMultiplyAdds = 2048, kSharedBytes = 128, kProcessors = 132;
constexpr int kInstruction = 64 * 128 * 16;             // multiply-adds of wgmma m64n128k16
constexpr int kInstructionBytes = (64 + 128) * 16 * 2;  // it reads from shared memory

struct Case {
  const char* name;
  int time, channels, kernel, out_channels, stride, residual;
};

// Blocks of the presets at 29.44 s; 4 clips, with guidance twice.
constexpr Case kCases[] = {
    {"wavgen 256", 23552, 256, 7, 256, 1, 0},   {"wavgen 256, residual", 5888, 256, 7, 256, 1, 256},
    {"wavgen 512", 1472, 512, 7, 512, 1, 0},    {"wavgen 768", 368, 768, 7, 768, 1, 0},
    {"wavgen 1024", 92, 1024, 7, 1024, 1, 0},   {"wavgen 1024, deepest", 23, 1024, 7, 1024, 1, 0},
    {"wavgen down 4", 5888, 256, 7, 512, 4, 0}, {"specgen 256", 744, 256, 9, 256, 1, 0},
    {"specgen 512", 248, 512, 9, 512, 1, 0},    {"specgen 768", 124, 768, 9, 768, 1, 0},
    {"specgen 1024", 62, 1024, 9, 1024, 1, 0},  {"vocoder 256", 14720, 256, 5, 256, 1, 0},
    {"vocoder 512", 2944, 512, 5, 512, 1, 0},
};

void Row(const Case& c) {
  Conv1dBlockShape s;
  s.batch = 8, s.time = c.time, s.channels = c.channels, s.kernel = c.kernel;
  s.out_channels = c.out_channels, s.stride = c.stride, s.residual_channels = c.residual;
  s.groups = c.stride == 1 ? 32 : 0, s.out_groups = c.stride == 1 ? 32 : 0;
  s.dtype = s.weight_dtype = n2m::DType::kBFloat16;
  Arena none(nullptr);
  const Tables tables(none, s, false);
  const PackedWeight weight(none, s, nullptr, 0), fc(none, s, nullptr, 0);
  ConvJob job = ForwardJob(s, {}, tables, weight, fc, nullptr);
  const Plan plan = PlanConv(job, true, false, {9, static_cast<int>(kProcessors)});
  job.splits = plan.splits;

  const double blocks = 1.0 * Blocks(job, plan.block_m) * plan.splits;
  const double waves = std::ceil(blocks / kProcessors);
  // Of the block with the largest share of the reduction.
  const Share share(job, plan.chunk, plan.splits - 1);
  const int steps = share.steps;
  const double instructions = 1.0 * steps * (plan.block_m / 64) * (plan.chunk / 16);
  const double products = instructions * kInstruction / kMultiplyAdds;  // clocks of a block

  // Shared memory of a block: what wgmma reads, weights written, x written and normalised in place;
  // then, when all is multiplied, results staged and taken up again.
  double x_rows = 0;
  for (Step step = share.first; share.Holds(job, step, plan.chunk); step.NextX(job, plan.chunk)) {
    const Operand& op = job.operand[step.operand];
    x_rows += (plan.block_m + step.TileTaps(op) - 1) * (step.operand == 0 && s.groups > 0 ? 3 : 1);
  }
  const double weights = 1.0 * steps * plan.chunk * kBlockN * 2;
  const double shared =
      (instructions * kInstructionBytes + weights + x_rows * plan.chunk * 2) / kSharedBytes;
  const double epilogue = 2.0 * plan.block_m * kBlockN * 4 / kSharedBytes;
  const double x_bytes = x_rows / (s.groups > 0 ? 3 : 1) * plan.chunk * 2;  // about, with residual
  const double block = std::max(products, shared) + epilogue;
  const double finish = FinishClocks(job, plan.block_m, plan.splits);

  const double useful = 1.0 * s.batch * job.rows * s.out_channels *
                        (1.0 * s.kernel * s.channels + s.residual_channels);
  const double least = useful / kMultiplyAdds / kProcessors;  // clocks at the full rate
  const double memory =
      2.0 * (1.0 * s.batch * s.time * s.channels + 1.0 * s.kernel * s.channels * s.out_channels +
             1.0 * s.residual_channels * s.out_channels +
             1.0 * s.batch * job.rows * (s.out_channels + s.residual_channels));
  std::printf(
      "| %s | %d x %d | %d | %.0f | %.0f | %.2f M | %.1f | %.0f | %.0f | %.0f %% | %.0f %% |\n",
      c.name, plan.block_m, kBlockN, plan.splits, blocks, waves, blocks * instructions / 1e6,
      memory / 1e6, (weights + x_bytes) / std::max(products, shared), 100.0 * shared / products,
      100.0 * useful /
          (1.0 * Blocks(job, plan.block_m) * job.Steps(plan.chunk) * (plan.block_m / 64) *
           (plan.chunk / 16) * kInstruction),
      100.0 * least / (waves * block + finish));
}

}  // namespace

int main() {
  std::puts(
      "| block | tile | parts | blocks | waves | wgmma | MB | L2 bytes a clock | shared memory / "
      "products "
      "| useful products | of the matmul rate, at most |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|");
  for (const Case& c : kCases) Row(c);
  return 0;
}
