/// \file
/// FiLM, modulation by an embedding:
///
///     y = x * (1 + scale) + shift   with   [scale, shift] = emb @ kernel + bias
///
/// Arrays are dense and row-major. B batch, T time, C channels, E embedding, G groups of C / G
/// contiguous channels. x, y and their cotangents are of type `dtype`; everything else is float32.
///
/// tests/cpp/consumer/main.cc calls it:
/// \include main.cc
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

/// Sizes and type of one call.
struct CombineFilmShape {
  int64_t B = 0;                  ///< Batch.
  int64_t T = 0;                  ///< Time.
  int64_t C = 0;                  ///< Channels.
  int64_t E = 0;                  ///< Width of the embedding.
  int64_t G = 0;                  ///< Groups; 0: no group sums.
  DType dtype = DType::kFloat32;  ///< Of x and y.
};

/// Floats of scratch that CombineFilmFwd needs.
N2M_API int64_t CombineFilmFwdScratch(const CombineFilmShape& shape);
/// Floats of scratch that CombineFilmBwd needs.
N2M_API int64_t CombineFilmBwdScratch(const CombineFilmShape& shape);

/// x (B,T,C), emb (B,E), kernel (E,2C), bias (2C) -> y (B,T,C) and, if G > 0, sums (B,G,2): the sum
/// and the sum of squares of y as stored, over time and the channels of a group. y may be x.
N2M_API Status CombineFilmFwd(const CombineFilmShape& shape, const void* x, const float* emb,
                              const float* kernel, const float* bias, void* y, float* sums,
                              float* scratch, Executor& executor);

/// The cotangents dy (B,T,C) of y and, if G > 0, dsums (B,G,2) of sums -> dx (B,T,C) and dfilm
/// (B,2C), the cotangent of [scale, shift].
N2M_API Status CombineFilmBwd(const CombineFilmShape& shape, const void* x, const float* emb,
                              const float* kernel, const float* bias, const void* dy,
                              const float* dsums, void* dx, float* dfilm, float* scratch,
                              Executor& executor);

/// dfilm (B,2C) -> demb (B,E), dkernel (E,2C), dbias (2C).
N2M_API Status CombineFilmBwdParams(const CombineFilmShape& shape, const float* emb,
                                    const float* kernel, const float* dfilm, float* demb,
                                    float* dkernel, float* dbias, Executor& executor);

/// The same on a GPU (noise2music::cuda): every pointer is to device memory, `stream` is a
/// cudaStream_t, and the call returns when its kernels are queued.
namespace cuda {

/// n2m::CombineFilmFwdScratch on a GPU.
int64_t CombineFilmFwdScratch(const CombineFilmShape& shape);
/// n2m::CombineFilmBwdScratch on a GPU.
int64_t CombineFilmBwdScratch(const CombineFilmShape& shape);

/// n2m::CombineFilmFwd on a GPU.
Status CombineFilmFwd(const CombineFilmShape& shape, const void* x, const float* emb,
                      const float* kernel, const float* bias, void* y, float* sums, float* scratch,
                      void* stream);
/// n2m::CombineFilmBwd on a GPU.
Status CombineFilmBwd(const CombineFilmShape& shape, const void* x, const float* emb,
                      const float* kernel, const float* bias, const void* dy, const float* dsums,
                      void* dx, float* dfilm, float* scratch, void* stream);
/// n2m::CombineFilmBwdParams on a GPU.
Status CombineFilmBwdParams(const CombineFilmShape& shape, const float* emb, const float* kernel,
                            const float* dfilm, float* demb, float* dkernel, float* dbias,
                            void* stream);

}  // namespace cuda

}  // namespace n2m
