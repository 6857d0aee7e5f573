/// \file
/// One step of the sampler (Equation 4 through x_0), noise given:
///
///     eps = w eps_cond + (1 - w) eps_uncond
///     x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps
///     s   = max(percentile(|x_0|, p), floor);  x_0 <- clip(x_0, -s, s) floor / s    (p > 0 only)
///     x_s = c_x x_t + c_0 x_0 + c_noise z
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

/// x_t, eps, z, x_s and x_0 are (B, T, C); one clip is (T, C).
struct AncestralStepShape {
  int64_t B = 0;                      ///< Clips.
  int64_t T = 0;                      ///< Time.
  int64_t C = 0;                      ///< Channels.
  DType eps_dtype = DType::kFloat32;  ///< Of eps_cond and eps_uncond; everything else is float32.
};

/// Floats of scratch.
N2M_API int64_t AncestralStepScratch(const AncestralStepShape& s);

/// coefficients (8): w, 1 / alpha_t, sigma_t / alpha_t, c_x, c_0, c_noise, p (percent), floor (>
/// 0). eps_uncond may be null (eps = eps_cond); z is not read, and may be null, where c_noise is 0.
/// The percentile interpolates linearly between the two nearest ranks. A NaN in a clip stays one:
/// with clipping, every value of that clip becomes NaN.
N2M_API Status AncestralStepFwd(const AncestralStepShape& s, const float* x_t, const void* eps_cond,
                                const void* eps_uncond, const float* z, const float* coefficients,
                                float* x_s, float* x_0, float* scratch, Executor& executor);

namespace cuda {

/// n2m::AncestralStepScratch on a GPU.
int64_t AncestralStepScratch(const AncestralStepShape& s);

/// n2m::AncestralStepFwd on a GPU. A clip has less than 2^31 values.
Status AncestralStepFwd(const AncestralStepShape& s, const float* x_t, const void* eps_cond,
                        const void* eps_uncond, const float* z, const float* coefficients,
                        float* x_s, float* x_0, float* scratch, void* stream);

}  // namespace cuda

}  // namespace n2m
