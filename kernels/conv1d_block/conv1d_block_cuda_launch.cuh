// How the launchers start their kernels. Included by conv1d_block_cuda.cu alone.
#pragma once

#include <cstdlib>
#include <string>

#include "kernels/common/device.cuh"
#include "kernels/conv1d_block/conv1d_block_cuda_jobs.h"

namespace n2m::cuda {
namespace {

using namespace conv1d_block_cuda;  // NOLINT: the room's own names
constexpr char kOp[] = "n2m.conv1d_block";

#define N2M_RETURN_IF_NOT_OK(expression) \
  if (Status status = (expression); !status.ok()) return status

// NOISE2MUSIC_CONV1D_CUDA=mma_sync keeps Hopper from its own kernel, for a comparison.
bool WgmmaIsOff() {
  static const bool off = [] {
    const char* value = std::getenv("NOISE2MUSIC_CONV1D_CUDA");
    return value != nullptr && std::string(value) == "mma_sync";
  }();
  return off;
}

// NOISE2MUSIC_CONV1D_CUDA_ROWS=64, 128, 192 or 256 fixes the rows of its tiles, to measure the
// plan's choice.
int OnlyRows() {
  const char* value = std::getenv("NOISE2MUSIC_CONV1D_CUDA_ROWS");
  const int rows = value != nullptr ? std::atoi(value) : 0;
  for (int block_m : Wgmma::kBlockM) {
    if (rows == block_m) return rows;
  }
  return 0;
}

Gpu CurrentGpu() {
  int device = 0, major = 0, processors = 0;
  Gpu gpu;
  if (cudaGetDevice(&device) != cudaSuccess) return gpu;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  gpu.major = major == 9 && WgmmaIsOff() ? 8 : major;
  gpu.processors = processors;
  gpu.only_rows = OnlyRows();
  return gpu;
}

dim3 Grid(int64_t threads) {
  return dim3(static_cast<unsigned>(CeilDiv(threads, int64_t{kPassThreads})));
}

template <class... Parameters, class... Arguments>
Status LaunchPass(void (*kernel)(Parameters...), int64_t threads, void* stream,
                  Arguments... arguments) {
  if (threads == 0) return Status::Ok();
  return Launch(kOp, kernel, Grid(threads), dim3(kPassThreads), 0, stream, arguments...);
}

template <bool kTransposed>
void (*KernelOf(const Plan& plan))(ConvJob, int) {
  switch (plan.kernel) {
    case Kernel::kFfma:
      return n2m_conv1d_block_multistage<Ffma, kTransposed>;
    case Kernel::kMmaSync:
      return n2m_conv1d_block_multistage<MmaSync, kTransposed>;
    case Kernel::kWgmma:
      break;
  }
  switch (plan.block_m) {
    case 64:
      return n2m_conv1d_block_wgmma<64, kTransposed>;
    case 128:
      return n2m_conv1d_block_wgmma<128, kTransposed>;
    case 192:
      return n2m_conv1d_block_wgmma<192, kTransposed>;
    default:
      return n2m_conv1d_block_wgmma<256, kTransposed>;
  }
}

// `transposed`: the weights are read with their channels out as the reduction. `shares` is scratch
// for a split reduction.
Status LaunchConv(ConvJob job, const Plan& plan, bool transposed, float* shares, void* stream) {
  const int64_t blocks = Blocks(job, plan.block_m);
  if (blocks == 0 || job.rows == 0) return Status::Ok();
  if (blocks > 0x7fffffff) {
    return Status::InvalidArgument(
        "n2m.conv1d_block: batch * time * channels must be of at most 2^31 tiles of 128 x 128, "
        "got " +
        std::to_string(blocks));
  }
  job.x_stride = plan.x_stride;
  job.splits = plan.splits;
  job.shares = shares;
  N2M_RETURN_IF_NOT_OK(
      Launch(kOp, transposed ? KernelOf<true>(plan) : KernelOf<false>(plan),
             dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(plan.splits)),
             dim3(static_cast<unsigned>(plan.threads)), static_cast<size_t>(plan.shared_bytes),
             stream, job, plan.x_tile_bytes));
  if (plan.splits == 1) return Status::Ok();
  const int rows =
      RowTiles(job.batch, static_cast<int>(job.period.divisor), plan.block_m) * plan.block_m;
  return Launch(kOp,
                plan.kernel == Kernel::kFfma ? n2m_conv1d_block_finish_shares<float>
                                             : n2m_conv1d_block_finish_shares<BFloat16>,
                dim3(static_cast<unsigned>(Blocks(job, kFinishRows))), dim3(kFinishThreads),
                static_cast<size_t>(EpilogueBytes(kFinishThreads / 32, kFinishRows)), stream, job,
                rows);
}

template <class From, class To>
Status LaunchCast(const PackedWeight& weight, void* stream) {
  return LaunchPass(n2m_conv1d_block_cast<From, To>, weight.rows * weight.padded, stream,
                    static_cast<const From*>(weight.data), weight.rows, weight.columns,
                    weight.padded, static_cast<To*>(weight.copy));
}

Status Prepare(const PackedWeight& weight, const Conv1dBlockShape& s, void* stream) {
  if (!IsAligned(weight.use())) {
    return Status::InvalidArgument(
        "n2m.conv1d_block: weight and fc must be aligned to 16 bytes, got another address");
  }
  if (weight.copy == nullptr) return Status::Ok();
  const bool from_float = s.weight_dtype == DType::kFloat32, to_float = s.dtype == DType::kFloat32;
  if (from_float && to_float) return LaunchCast<float, float>(weight, stream);
  if (from_float) return LaunchCast<float, BFloat16>(weight, stream);
  if (to_float) return LaunchCast<BFloat16, float>(weight, stream);
  return LaunchCast<BFloat16, BFloat16>(weight, stream);
}

double GroupCount(const Conv1dBlockShape& s) {
  return static_cast<double>(s.time) * static_cast<double>(s.channels / s.groups);
}

Status MakeTables(const Tables& tables, const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                  const float* sums, const float* d_out_sums, void* stream) {
  if (tables.affine != nullptr) {
    N2M_RETURN_IF_NOT_OK(LaunchPass(n2m_conv1d_block_affine, s.batch * s.channels, stream, sums,
                                    in.scale, in.offset, s.batch * s.channels, ToInt(s.channels),
                                    ToInt(s.channels / s.groups), GroupCount(s), s.eps,
                                    tables.affine, tables.mean));
  }
  if (tables.mix == nullptr) return Status::Ok();
  return LaunchPass(n2m_conv1d_block_mix, s.batch * s.out_channels, stream, d_out_sums,
                    s.batch * s.out_channels, ToInt(s.out_channels / s.out_groups), tables.mix);
}

Status LaunchColumnSums(const Operand& op, DType dtype, const Partials& partials, float* out,
                        int64_t batch, void* stream) {
  if (partials.tiles == 0) return Status::Ok();
  const int a_clip = static_cast<int>(partials.tiles / batch);
  const dim3 grid(static_cast<unsigned>(partials.tiles),
                  static_cast<unsigned>(CeilDiv(op.channels, int64_t{kBlockN})));
  return Launch(kOp,
                dtype == DType::kFloat32 ? n2m_conv1d_block_column_sums<float>
                                         : n2m_conv1d_block_column_sums<BFloat16>,
                grid, dim3(kPassThreads), 0, stream, op, kSumRows, a_clip, out);
}

Status FinishSums(Partials partials, const float* data, int64_t batch, int64_t groups, float* sums,
                  void* stream) {
  partials.data = data;
  return LaunchPass(n2m_conv1d_block_finish_sums, batch * groups * kPassThreads, stream, partials,
                    ToInt(groups), sums);
}

}  // namespace
}  // namespace n2m::cuda
