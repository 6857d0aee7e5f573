/// \file
/// The convolution of a U-Net block with everything around it in one pass:
///
///     h = swish((x - mean) * rstd * scale + offset)          (h = x when scale is null)
///     y = conv1d(h, weight; stride, SAME) + bias + residual @ fc
///
/// Shapes: x (B, T, C), weight (K, C, D), bias (D), scale and offset (C), residual (B, T', R), fc
/// (R, D), y (B, T', D) with T' = ceil(T / stride) and XLA's SAME padding. Mean and variance come
/// from `sums` (B, groups, 2): sum and sum of squares of x over time and the C / groups channels of
/// a group. `out_sums` (B, out_groups, 2) is the same of y, as stored.
///
/// x, residual, y and their gradients are `dtype`; weight and fc are `weight_dtype`; everything
/// else is float32. Tensors are dense and need only the alignment of their elements. Every launcher
/// is deterministic: its result does not depend on the number of threads.
#pragma once

#include <cstdint>
#include <string>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

/// How the products are formed.
enum class Conv1dAlgorithm : int {
  kAuto = 0,      ///< The planner picks by the shape of one clip.
  kDirect = 1,    ///< As the definition says.
  kToomCook = 2,  ///< Fewer products. Direct for strides above 1 and kernels but 3, 5, 7 and 9.
  kAmx = 3,       ///< The tiles of AMX; kAuto on a processor without them.
};

/// Sizes, types and options of one call.
struct Conv1dBlockShape {
  int64_t batch = 0;                                   ///< B.
  int64_t time = 0;                                    ///< T.
  int64_t channels = 0;                                ///< C.
  int64_t kernel = 0;                                  ///< K.
  int64_t out_channels = 0;                            ///< D.
  int64_t stride = 1;                                  ///< Of the convolution.
  int64_t groups = 0;                                  ///< Of x; 0: no normalisation, no swish.
  int64_t out_groups = 0;                              ///< Of y; 0: no sums of y.
  int64_t residual_channels = 0;                       ///< R; 0: no residual.
  float eps = 1e-5f;                                   ///< Added to the variance.
  DType dtype = DType::kFloat32;                       ///< Of x, residual and y.
  DType weight_dtype = DType::kFloat32;                ///< Of weight and fc.
  Conv1dAlgorithm algorithm = Conv1dAlgorithm::kAuto;  ///< How the products are formed.
};

/// "auto", "direct", "toom_cook" or "amx"; false for another name.
N2M_API bool ParseConv1dAlgorithm(const std::string& name, Conv1dAlgorithm* algorithm);

/// What the planner picks for each pass, one line a pass, for instance
/// "forward: toom_cook F(6, 7), 12 points, 3.50 times fewer products".
N2M_API std::string Conv1dBlockPlan(const Conv1dBlockShape& shape);

/// T' = ceil(T / stride).
N2M_API int64_t Conv1dBlockOutTime(const Conv1dBlockShape& shape);

/// Floats of scratch that Conv1dBlockFwd needs with an executor of `threads` threads.
N2M_API int64_t Conv1dBlockFwdScratch(const Conv1dBlockShape& shape, int threads);
/// The same of Conv1dBlockBwd.
N2M_API int64_t Conv1dBlockBwdScratch(const Conv1dBlockShape& shape, int threads);
/// The same of Conv1dBlockBwdWeight.
N2M_API int64_t Conv1dBlockBwdWeightScratch(const Conv1dBlockShape& shape, int threads);
/// The same of GroupSums, with any executor.
N2M_API int64_t GroupSumsScratch(int64_t batch, int64_t time, int64_t channels, int64_t groups);

/// What is read.
struct Conv1dBlockInputs {
  const void* x = nullptr;         ///< (B, T, C).
  const void* weight = nullptr;    ///< (K, C, D).
  const float* bias = nullptr;     ///< (D); may be null.
  const float* scale = nullptr;    ///< (C); read when groups > 0.
  const float* offset = nullptr;   ///< (C); read when groups > 0.
  const float* sums = nullptr;     ///< Read when groups > 0; null: computed from x (forward only).
  const void* residual = nullptr;  ///< (B, T', R); read when residual_channels > 0.
  const void* fc = nullptr;        ///< (R, D); read when residual_channels > 0.
};

/// Writes y, and out_sums when out_groups > 0.
N2M_API Status Conv1dBlockFwd(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in, void* y,
                              float* out_sums, void* scratch, Executor& executor);

/// The cotangents that reach the output. With out_groups > 0 the gradient of y is
/// dy + d_out_sums[..., 0] + 2 y d_out_sums[..., 1], so y is read too.
struct Conv1dBlockCotangents {
  const void* dy = nullptr;           ///< (B, T', D).
  const void* y = nullptr;            ///< (B, T', D); read when out_groups > 0.
  const float* d_out_sums = nullptr;  ///< (B, out_groups, 2); read when out_groups > 0.
};

/// Gradients of everything that has a batch. dx does not contain what flows through `sums`: the
/// caller that computed sums from x adds d_sums[..., 0] + 2 x d_sums[..., 1].
struct Conv1dBlockGradients {
  void* dx = nullptr;         ///< (B, T, C).
  float* dscale = nullptr;    ///< (B, C), one row a clip; written when groups > 0.
  float* doffset = nullptr;   ///< (B, C), one row a clip; written when groups > 0.
  float* dsums = nullptr;     ///< (B, groups, 2); written when groups > 0.
  void* dresidual = nullptr;  ///< (B, T', R); written when residual_channels > 0.
};

/// Writes the gradients of everything that has a batch.
N2M_API Status Conv1dBlockBwd(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in,
                              const Conv1dBlockCotangents& cotangents,
                              const Conv1dBlockGradients& out, void* scratch, Executor& executor);

/// Gradients of the parameters, summed over the batch, float32 whatever weight_dtype is:
/// dweight (K, C, D), dbias (D) (may be null), dfc (R, D) (written when residual_channels > 0).
N2M_API Status Conv1dBlockBwdWeight(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in,
                                    const Conv1dBlockCotangents& cotangents, float* dweight,
                                    float* dbias, float* dfc, void* scratch, Executor& executor);

/// sums (B, groups, 2): sum and sum of squares over time and the channels of each group,
/// accumulated in float64. x (B, T, C).
N2M_API Status GroupSums(const void* x, DType dtype, int64_t batch, int64_t time, int64_t channels,
                         int64_t groups, float* sums, void* scratch, Executor& executor);

namespace cuda {

/// n2m::Conv1dBlockFwdScratch on a GPU.
int64_t Conv1dBlockFwdScratch(const Conv1dBlockShape& shape);
/// n2m::Conv1dBlockBwdScratch on a GPU.
int64_t Conv1dBlockBwdScratch(const Conv1dBlockShape& shape);
/// n2m::Conv1dBlockBwdWeightScratch on a GPU.
int64_t Conv1dBlockBwdWeightScratch(const Conv1dBlockShape& shape);
/// n2m::GroupSumsScratch on a GPU.
int64_t GroupSumsScratch(int64_t batch, int64_t time, int64_t channels, int64_t groups);

/// n2m::Conv1dBlockFwd on a GPU. bfloat16 is multiplied by tensor cores: what they read (x
/// normalised and swished, weights, dy) is rounded to bfloat16. float32 is multiplied as it is,
/// without TF32. `algorithm` is not read.
Status Conv1dBlockFwd(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in, void* y,
                      float* out_sums, void* scratch, void* stream);
/// n2m::Conv1dBlockBwd on a GPU.
Status Conv1dBlockBwd(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in,
                      const Conv1dBlockCotangents& cotangents, const Conv1dBlockGradients& out,
                      void* scratch, void* stream);
/// n2m::Conv1dBlockBwdWeight on a GPU.
Status Conv1dBlockBwdWeight(const Conv1dBlockShape& shape, const Conv1dBlockInputs& in,
                            const Conv1dBlockCotangents& cotangents, float* dweight, float* dbias,
                            float* dfc, void* scratch, void* stream);
/// n2m::GroupSums on a GPU.
Status GroupSums(const void* x, DType dtype, int64_t batch, int64_t time, int64_t channels,
                 int64_t groups, float* sums, void* scratch, void* stream);

/// Which kernel each pass takes, one line a pass, on a GPU of compute capability `major` with so
/// many multiprocessors.
std::string Conv1dBlockPlan(const Conv1dBlockShape& shape, int major, int processors);

}  // namespace cuda

}  // namespace n2m
