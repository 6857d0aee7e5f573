// Which kernel convolves, and with tiles of how many rows: a function of the shape and the GPU
// alone.
#pragma once

#include <string>

#include "kernels/conv1d_block/conv1d_block_cuda_multistage.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_wgmma.cuh"

namespace n2m::conv1d_block_cuda {

struct Gpu {
  int major = 8;  // of the compute capability
  int processors = 108;
};

enum class Kernel { kFfma, kMmaSync, kWgmma };

struct Plan {
  Kernel kernel = Kernel::kFfma;
  int block_m = 128;
  int chunk = 16;
  int x_tile_bytes = 0, shared_bytes = 0, threads = 0;
  int x_stride = 0;
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
      plan.threads = Wgmma::kThreads;
      plan.shared_bytes = transposed ? WgmmaBytes<true>(plan.x_tile_bytes, block_m)
                                     : WgmmaBytes<false>(plan.x_tile_bytes, block_m);
      break;
  }
  return plan;
}

// Blocks run in waves of one a multiprocessor. A row costs about a ninth more in a block of 128:
// there shared memory, not the tensor cores, sets the pace (docs/design/conv1d_cuda.md). So 256,
// unless its last wave stays much emptier.
inline int WgmmaRows(const ConvJob& job, const Gpu& gpu) {
  const auto waves = [&](int rows) {
    const int64_t blocks =
        static_cast<int64_t>(RowTiles(job.batch, static_cast<int>(job.period.divisor), rows)) *
        CeilDiv(job.results.out_channels, kBlockN);
    return (blocks + gpu.processors - 1) / gpu.processors * rows;
  };
  return waves(256) * 9 <= waves(128) * 10 ? 256 : 128;
}

inline Plan PlanConv(const ConvJob& job, bool bfloat16, bool transposed, const Gpu& gpu) {
  if (!bfloat16) return PlanTiles(job, Kernel::kFfma, Ffma::kBlockM, transposed);
  if (gpu.major != 9) return PlanTiles(job, Kernel::kMmaSync, MmaSync::kBlockM, transposed);
  return PlanTiles(job, Kernel::kWgmma, WgmmaRows(job, gpu), transposed);
}

inline std::string Describe(const Plan& plan) {
  const char* name = plan.kernel == Kernel::kWgmma     ? "wgmma m64n128k16"
                     : plan.kernel == Kernel::kMmaSync ? "mma.sync m16n8k16"
                                                       : "FFMA";
  return std::string(name) + ", tiles of " + std::to_string(plan.block_m) + " x " +
         std::to_string(kBlockN) + ", " + std::to_string((plan.shared_bytes + 1023) / 1024) +
         " KiB of shared memory";
}

}  // namespace n2m::conv1d_block_cuda
