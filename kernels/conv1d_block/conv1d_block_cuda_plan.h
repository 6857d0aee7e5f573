// Which kernel convolves, and with tiles of how many rows: a function of the shape and the GPU
// alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/conv1d_block/conv1d_block_cuda_multistage.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_wgmma.cuh"

namespace n2m::conv1d_block_cuda {

struct Gpu {
  int major = 8;  // of the compute capability
  int processors = 108;
  int only_rows = 0;  // of a tile on wgmma; 0: the plan chooses
};

enum class Kernel { kFfma, kMmaSync, kWgmma };

struct Plan {
  Kernel kernel = Kernel::kFfma;
  int block_m = 128;
  int chunk = 16;
  int x_tile_bytes = 0, shared_bytes = 0, threads = 0;
  int x_stride = 0;
  int splits = 1;

  // Rows of the tiles that sums over rows are of.
  int SumRows() const { return splits > 1 ? kFinishRows : block_m; }
};

// What the tiles of x of a job need.
inline int TileRows(const ConvJob& job, int block_m) {
  int rows = 0;
  for (int i = 0; i < job.operands; ++i) rows = Max(rows, job.operand[i].TileRows(block_m));
  return rows;
}

inline Plan PlanTiles(const ConvJob& job, Kernel kernel, int block_m, bool transposed) {
  Plan plan;
  plan.kernel = kernel;
  plan.block_m = block_m;
  plan.chunk = kernel == Kernel::kWgmma     ? Wgmma::kChunk
               : kernel == Kernel::kMmaSync ? MmaSync::kChunk
                                            : Ffma::kChunk;
  const int planes = plan.chunk / (kernel == Kernel::kFfma ? kPack<float> : kPack<BFloat16>);
  plan.x_stride = PlaneStride(TileRows(job, block_m), planes);
  plan.x_tile_bytes = CeilDiv(planes * plan.x_stride * 16, 128) * 128;
  switch (kernel) {
    case Kernel::kFfma:
      plan.threads = Ffma::kThreads;
      plan.shared_bytes = transposed ? MultistageBytes<Ffma, true>(plan.x_tile_bytes)
                                     : MultistageBytes<Ffma, false>(plan.x_tile_bytes);
      break;
    case Kernel::kMmaSync:
      plan.threads = MmaSync::kThreads;
      plan.shared_bytes = transposed ? MultistageBytes<MmaSync, true>(plan.x_tile_bytes)
                                     : MultistageBytes<MmaSync, false>(plan.x_tile_bytes);
      break;
    case Kernel::kWgmma:
      plan.threads = Wgmma::Threads(block_m);
      plan.shared_bytes = transposed ? WgmmaBytes<true>(plan.x_tile_bytes, block_m)
                                     : WgmmaBytes<false>(plan.x_tile_bytes, block_m);
      break;
  }
  return plan;
}

constexpr int kMostSplits = 8, kMostSplitBlocks = 512;

inline int64_t Blocks(const ConvJob& job, int block_m) {
  return static_cast<int64_t>(RowTiles(job.batch, static_cast<int>(job.period.divisor), block_m)) *
         CeilDiv(job.results.out_channels, kBlockN);
}
// The largest number of shares of a tile, so that scratch stays small.
inline int MostSplits(const ConvJob& job, int block_m, int chunk) {
  const int64_t most = kMostSplitBlocks / std::max<int64_t>(Blocks(job, block_m), 1);
  return static_cast<int>(std::min<int64_t>({most, kMostSplits, job.Chunks(chunk)}));
}
inline int64_t ShareFloats(const ConvJob& job, int block_m, int splits) {
  return splits > 1 ? splits * Blocks(job, block_m) * block_m * kBlockN : 0;
}

// Clocks that a step takes on wgmma: of its products, or of its traffic through shared memory, at
// 128 bytes a clock, if that takes longer: an instruction m64n128k16 reads 6 KB, the weights of a
// tap are written once, and x once a chunk, which normalising reads and writes again.
inline double WgmmaStepClocks(const ConvJob& job, int block_m) {
  const Operand& op = job.operand[0];
  const double taps = std::clamp(op.taps, 1, kTileTaps);
  const double x = 3.0 * (block_m + taps - 1) / taps * Wgmma::kChunk * 2;
  const double weights = Wgmma::kChunk * kBlockN * 2;
  const double reads = block_m / 64 * (Wgmma::kChunk / 16) * (64 + kBlockN) * 16 * 2;
  return std::max(1.0 * block_m * kBlockN * Wgmma::kChunk / 2048, (x + weights + reads) / 128);
}

// Clocks that adding up the shares of a split reduction takes: they go through the second-level
// cache, at some 3000 bytes a clock, and cost another launch, of a microsecond and a half in a
// graph.
inline double FinishClocks(const ConvJob& job, int block_m, int splits) {
  return splits > 1 ? 2500 + ShareFloats(job, block_m, splits) * 8 / 3000.0 : 0.0;
}

// About the clocks that a job takes; what the plan compares. Blocks run in waves.
inline double Clocks(const ConvJob& job, const Plan& plan, int splits, const Gpu& gpu) {
  const int blocks_at_once =
      gpu.processors * (plan.kernel == Kernel::kMmaSync ? MmaSync::kBlocksPerSm : 1);
  const double products = 1.0 * plan.block_m * kBlockN * plan.chunk;
  const double step = plan.kernel == Kernel::kWgmma     ? WgmmaStepClocks(job, plan.block_m)
                      : plan.kernel == Kernel::kMmaSync ? products / 512
                                                        : products / 128;
  const double waves = std::ceil(1.0 * Blocks(job, plan.block_m) * splits / blocks_at_once);
  const double chunks = std::max(job.Chunks(plan.chunk), 1);
  const double share = std::ceil(chunks / splits) / chunks * job.Steps(plan.chunk);
  const double epilogue = 8.0 * plan.block_m;
  return waves * (share * step + epilogue) + FinishClocks(job, plan.block_m, splits);
}

inline Plan PlanConv(const ConvJob& job, bool bfloat16, bool transposed, const Gpu& gpu) {
  const Kernel kernel = !bfloat16        ? Kernel::kFfma
                        : gpu.major != 9 ? Kernel::kMmaSync
                                         : Kernel::kWgmma;
  Plan best;
  double least = 0;
  for (int block_m : {256, 192, 128, 64}) {
    if (block_m != 128 && kernel != Kernel::kWgmma) continue;
    if (kernel == Kernel::kWgmma && gpu.only_rows > 0 && block_m != gpu.only_rows) continue;
    Plan plan = PlanTiles(job, kernel, block_m, transposed);
    for (int splits = 1; splits <= std::max(MostSplits(job, block_m, plan.chunk), 1); ++splits) {
      const double clocks = Clocks(job, plan, splits, gpu);
      if (best.threads > 0 && clocks >= least) continue;
      plan.splits = splits;
      best = plan;
      least = clocks;
    }
  }
  return best;
}

inline std::string Describe(const Plan& plan) {
  const char* name = plan.kernel == Kernel::kWgmma     ? "wgmma m64n128k16"
                     : plan.kernel == Kernel::kMmaSync ? "mma.sync m16n8k16"
                                                       : "FFMA";
  return std::string(name) + ", tiles of " + std::to_string(plan.block_m) + " x " +
         std::to_string(kBlockN) + ", " + std::to_string((plan.shared_bytes + 1023) / 1024) +
         " KiB of shared memory" +
         (plan.splits > 1 ? ", reduction in " + std::to_string(plan.splits) + " parts" : "");
}

}  // namespace n2m::conv1d_block_cuda
