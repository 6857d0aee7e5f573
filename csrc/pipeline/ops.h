// What the networks need besides the kernels of noise2music::core. Activations are float32 or
// bfloat16, arithmetic is float32. Every function computes nothing while the workspace is
// measuring, and takes its scratch from there.
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/status.h"
#include "noise2music/types.h"
#include "pipeline/weights.h"
#include "pipeline/workspace.h"

namespace n2m {

struct Context {
  Executor& executor;
  Workspace& workspace;
  DType dtype = DType::kFloat32;  // of activations
};

inline int64_t BytesOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// `n` float32 values as activations. Not while the workspace is measuring.
void Cast(DType dtype, int64_t n, const float* from, void* to);

// y (rows, D) = x (rows, C) @ weight (C, D) + bias (D); bias may be null.
Status Linear(const Context& c, int64_t rows, int64_t in, int64_t out, const void* x, Matrix weight,
              const float* bias, void* y);

// y = (x - mean) / sqrt(var + 1e-5) * scale + offset over the last axis; x, y (rows, C).
void LayerNorm(const Context& c, int64_t rows, int64_t channels, const void* x, const float* scale,
               const float* offset, void* y);

// y = scale * x / sqrt(mean(x^2) + epsilon) over the last axis; x, y (rows, C).
void RmsNorm(const Context& c, int64_t rows, int64_t channels, float epsilon, const void* x,
             const float* scale, void* y);

// x <- x + h.
void Add(const Context& c, int64_t n, const void* h, void* x);

enum class Activation { kSwish, kRelu, kGelu };  // kGelu: the approximation by tanh
// x <- f(x) * gate; gate may be null.
void Activate(const Context& c, Activation f, int64_t n, const void* gate, void* x);

// Keys and values of one memory of L items, laid out for Attend, float32.
struct AttentionMemory {
  int64_t length = 0;
  Workspace::Buffer packed;
};
int64_t AttentionMemoryFloats(int64_t length, int64_t channels, int64_t heads);
// k, v (L, C), C = heads * d, head-major -> packed.
void PackMemory(const Context& c, int64_t length, int64_t channels, int64_t heads, const void* k,
                const void* v, float* packed);
// y (T, C) = softmax(scale * q k^T + bias) v, a head at a time; bias (heads, T, L) may be null. y
// may be q.
void Attend(const Context& c, int64_t time, int64_t length, int64_t channels, int64_t heads,
            float scale, const void* q, const float* packed, const float* bias, void* y);

}  // namespace n2m
