/// \file
/// Band-limited resampling by up / down, equal to scipy.signal.resample:
///
///     y = (T'/T) irfft_T'(P rfft_T(x)),   T' = T * up / down
///
/// P zero-pads (or cuts) the spectrum, the Nyquist bin split in half (or summed).
/// kernels/fft_upsample/README.md has the derivations.
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

/// x is (B, T, C), y is (B, T * up / down, C).
struct FftUpsampleShape {
  int64_t B = 0;                  ///< Batch.
  int64_t T = 0;                  ///< Samples of x; T * up must be divisible by down.
  int64_t C = 0;                  ///< Channels.
  int64_t up = 1;                 ///< Numerator of the ratio.
  int64_t down = 1;               ///< Its denominator.
  DType dtype = DType::kFloat32;  ///< Of x and y; spectra are float32.
};

/// Floats of scratch either pass needs on an executor with this many threads.
N2M_API int64_t FftUpsampleScratch(const FftUpsampleShape& s, int num_threads);

/// y = A x.
N2M_API Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                              Executor& executor);

/// dx = A^T dy.
N2M_API Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                              Executor& executor);

namespace cuda {

/// n2m::FftUpsampleScratch on a GPU.
int64_t FftUpsampleScratch(const FftUpsampleShape& s);

/// n2m::FftUpsampleFwd on a GPU. x and y have less than 2^31 values; a length with a prime factor p
/// takes p operations a value for it.
Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                      void* stream);
/// n2m::FftUpsampleBwd on a GPU.
Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                      void* stream);

}  // namespace cuda

}  // namespace n2m
