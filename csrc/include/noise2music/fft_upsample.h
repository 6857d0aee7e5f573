// Band-limited resampling by up / down, equal to scipy.signal.resample:
//   y = (T'/T) irfft_T'(P rfft_T(x)), T' = T * up / down, P zero-pads (or cuts) the spectrum with
//   the
// Nyquist bin split in half (or summed). kernels/fft_upsample/README.md has the derivations.
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

struct FftUpsampleShape {
  int64_t B = 0, T = 0, C = 0;    // x is (B, T, C), y is (B, T * up / down, C)
  int64_t up = 1, down = 1;       // T * up must be divisible by down
  DType dtype = DType::kFloat32;  // of x and y; spectra are float32
};

// Floats of scratch either pass needs on an executor with this many threads.
N2M_API int64_t FftUpsampleScratch(const FftUpsampleShape& s, int num_threads);

// y = A x.
N2M_API Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                              Executor& executor);

// dx = A^T dy.
N2M_API Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                              Executor& executor);

// The same on a GPU (noise2music::cuda): every pointer is to device memory, `stream` is a
// cudaStream_t, and the call returns when its kernels are queued. x and y have less than 2^31
// values; a length with a prime factor p takes p operations a value for it.
namespace cuda {

int64_t FftUpsampleScratch(const FftUpsampleShape& s);

Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                      void* stream);
Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                      void* stream);

}  // namespace cuda

}  // namespace n2m
