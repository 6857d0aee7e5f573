#include "pipeline/ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/simd.h"
#include "noise2music/conv1d_block.h"

namespace n2m {
namespace {

using simd::BFloat16;
using simd::Exp;
using simd::Float;
using simd::Load;
using simd::LoadOne;
using simd::LoadPart;
using simd::Set;
using simd::Sigmoid;
using simd::Store;
using simd::StoreOne;
using simd::StorePart;
using simd::Sum;

constexpr int64_t kMemoryLanes = 16;  // packed memories are padded to the longest vector
constexpr int64_t kRows = 4;          // rows of q at a time
constexpr int64_t kGrain = 16384;     // elements a chunk

int64_t Padded(int64_t n) { return (n + kMemoryLanes - 1) / kMemoryLanes * kMemoryLanes; }

// Elementwise: x <- x + h, or x <- f(x) * gate.
struct ElementArgs {
  DType dtype;
  int op;  // -1: add
  const void* other;
  void* x;
  int64_t begin, end;
};

template <int L>
struct Element {
  // tanh(u) = 2 sigmoid(2 u) - 1, so gelu(x) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
  static N2M_INLINE Float<L> One(int op, Float<L> x) {
    if (op == static_cast<int>(Activation::kSwish)) return x * Sigmoid<L>(x);
    if (op == static_cast<int>(Activation::kRelu)) return x > 0.0f ? x : Set<L>(0.0f);
    return x * Sigmoid<L>(1.5957691216057308f * (x + 0.044715f * x * x * x));
  }
  template <class T>
  static N2M_INLINE void Typed(const ElementArgs& a) {
    T* x = static_cast<T*>(a.x);
    const T* other = static_cast<const T*>(a.other);
    for (int64_t i = a.begin; i < a.end; i += L) {
      const int n = a.end - i < L ? static_cast<int>(a.end - i) : L;
      Float<L> v = n == L ? Load<L>(x + i) : LoadPart<L>(x + i, n);
      Float<L> o = Set<L>(a.op < 0 ? 0.0f : 1.0f);
      if (other != nullptr) o = n == L ? Load<L>(other + i) : LoadPart<L>(other + i, n);
      v = a.op < 0 ? v + o : One(a.op, v) * o;
      if (n == L) {
        Store<L>(x + i, v);
      } else {
        StorePart<L>(x + i, v, n);
      }
    }
  }
  static N2M_INLINE void Run(const ElementArgs& a) {
    if (a.dtype == DType::kFloat32) return Typed<float>(a);
    Typed<BFloat16>(a);
  }
};
N2M_MULTI_ISA(Element, ElementArgs)

struct NormArgs {
  DType dtype;
  int64_t channels, begin, end;
  float epsilon;
  bool centred;
  const void* x;
  const float *scale, *offset;
  void* y;
};

template <int L>
struct Norm {
  // Sum over a row of (x - mean)^power, power 1 or 2.
  template <class T>
  static N2M_INLINE float Moment(const T* x, int64_t n, float mean, bool squared) {
    Float<L> sum = Set<L>(0.0f);
    int64_t i = 0;
    for (; i + L <= n; i += L) {
      const Float<L> d = Load<L>(x + i) - mean;
      sum += squared ? d * d : d;
    }
    float rest = 0.0f;
    for (; i < n; ++i) {
      const float d = LoadOne(x + i) - mean;
      rest += squared ? d * d : d;
    }
    return Sum<L>(sum) + rest;
  }
  template <class T>
  static N2M_INLINE void Typed(const NormArgs& a) {
    const int64_t n = a.channels;
    for (int64_t row = a.begin; row < a.end; ++row) {
      const T* x = static_cast<const T*>(a.x) + row * n;
      T* y = static_cast<T*>(a.y) + row * n;
      const float count = static_cast<float>(n);
      const float mean = a.centred ? Moment(x, n, 0.0f, false) / count : 0.0f;
      const float rstd = 1.0f / __builtin_sqrtf(Moment(x, n, mean, true) / count + a.epsilon);
      for (int64_t i = 0; i < n; ++i) {
        const float h = (LoadOne(x + i) - mean) * rstd * a.scale[i];
        StoreOne(y + i, a.offset == nullptr ? h : h + a.offset[i]);
      }
    }
  }
  static N2M_INLINE void Run(const NormArgs& a) {
    if (a.dtype == DType::kFloat32) return Typed<float>(a);
    Typed<BFloat16>(a);
  }
};
N2M_MULTI_ISA(Norm, NormArgs)

// Some rows of one head.
struct AttendArgs {
  DType dtype;
  int64_t length, channels, d, head, begin, end, time;
  float scale;
  const void* q;
  const float *keys, *values;  // (d, padded L) and (L, padded d)
  const float* bias;           // (T, L) of this head, or null
  float* scratch;              // kRows * (padded L + padded d)
  void* y;
};

template <int L>
struct AttendRows {
  template <class T>
  static N2M_INLINE void Typed(const AttendArgs& a) {
    const int64_t wide = (a.length + kMemoryLanes - 1) / kMemoryLanes * kMemoryLanes;
    const int64_t deep = (a.d + kMemoryLanes - 1) / kMemoryLanes * kMemoryLanes;
    float* q = a.scratch;
    float* w = a.scratch + kRows * deep;
    for (int64_t first = a.begin; first < a.end; first += kRows) {
      const int64_t rows = a.end - first < kRows ? a.end - first : kRows;
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t row = first + (r < rows ? r : 0);
        const T* from = static_cast<const T*>(a.q) + row * a.channels + a.head * a.d;
        for (int64_t i = 0; i < a.d; ++i) q[r * deep + i] = LoadOne(from + i) * a.scale;
      }
      for (int64_t l = 0; l < wide; l += L) {
        Float<L> sum[kRows] = {};
        for (int64_t i = 0; i < a.d; ++i) {
          const Float<L> key = Load<L>(a.keys + i * wide + l);
          for (int64_t r = 0; r < kRows; ++r) sum[r] += q[r * deep + i] * key;
        }
        for (int64_t r = 0; r < kRows; ++r) Store<L>(w + r * wide + l, sum[r]);
      }
      float total[kRows];
      for (int64_t r = 0; r < rows; ++r) {
        float* weight = w + r * wide;
        if (a.bias != nullptr) {
          for (int64_t l = 0; l < a.length; ++l) weight[l] += a.bias[(first + r) * a.length + l];
        }
        float most = weight[0];
        for (int64_t l = 1; l < a.length; ++l) most = weight[l] > most ? weight[l] : most;
        for (int64_t l = a.length; l < wide; ++l) weight[l] = most - 1000.0f;  // weighs nothing
        Float<L> sum = Set<L>(0.0f);
        for (int64_t l = 0; l < wide; l += L) {
          const Float<L> d = Load<L>(weight + l) - most;
          const Float<L> e = d < -86.0f ? Set<L>(0.0f) : Exp<L>(d);
          Store<L>(weight + l, e);
          sum += e;
        }
        total[r] = Sum<L>(sum);
      }
      for (int64_t i = 0; i < a.d; i += L) {
        Float<L> sum[kRows] = {};
        for (int64_t l = 0; l < a.length; ++l) {
          const Float<L> value = Load<L>(a.values + l * deep + i);
          for (int64_t r = 0; r < kRows; ++r) sum[r] += w[r * wide + l] * value;
        }
        const int n = a.d - i < L ? static_cast<int>(a.d - i) : L;
        for (int64_t r = 0; r < rows; ++r) {
          T* to = static_cast<T*>(a.y) + (first + r) * a.channels + a.head * a.d + i;
          StorePart<L>(to, sum[r] / total[r], n);
        }
      }
    }
  }
  static N2M_INLINE void Run(const AttendArgs& a) {
    if (a.dtype == DType::kFloat32) return Typed<float>(a);
    Typed<BFloat16>(a);
  }
};
N2M_MULTI_ISA(AttendRows, AttendArgs)

float LoadAt(DType dtype, const void* p, int64_t i) {
  return dtype == DType::kFloat32 ? static_cast<const float*>(p)[i]
                                  : LoadOne(static_cast<const BFloat16*>(p) + i);
}

void Elementwise(const Context& c, int op, int64_t n, const void* other, void* x) {
  if (c.workspace.measuring()) return;
  ParallelFor(c.executor, n, kGrain, [&](int64_t begin, int64_t end) {
    Element_Run(ElementArgs{c.dtype, op, other, x, begin, end});
  });
}

void Normalize(const Context& c, int64_t rows, const NormArgs& args) {
  if (c.workspace.measuring()) return;
  ParallelFor(c.executor, rows, std::max<int64_t>(1, kGrain / args.channels),
              [&](int64_t begin, int64_t end) {
                NormArgs part = args;
                part.begin = begin;
                part.end = end;
                Norm_Run(part);
              });
}

}  // namespace

void Cast(DType dtype, int64_t n, const float* from, void* to) {
  if (dtype == DType::kFloat32) {
    std::copy_n(from, n, static_cast<float*>(to));
    return;
  }
  for (int64_t i = 0; i < n; ++i) StoreOne(static_cast<BFloat16*>(to) + i, from[i]);
}

Status Linear(const Context& c, int64_t rows, int64_t in, int64_t out, const void* x, Matrix weight,
              const float* bias, void* y) {
  Conv1dBlockShape shape;
  shape.batch = 1;
  shape.time = rows;
  shape.channels = in;
  shape.kernel = 1;
  shape.out_channels = out;
  shape.dtype = c.dtype;
  shape.weight_dtype = weight.dtype;
  Conv1dBlockInputs inputs;
  inputs.x = x;
  inputs.weight = weight.data;
  inputs.bias = bias;
  const Workspace::Buffer scratch =
      c.workspace.TakeFloats(Conv1dBlockFwdScratch(shape, c.executor.num_threads()));
  if (c.workspace.measuring()) return Status::Ok();
  return Conv1dBlockFwd(shape, inputs, y, nullptr, scratch.data(), c.executor);
}

void LayerNorm(const Context& c, int64_t rows, int64_t channels, const void* x, const float* scale,
               const float* offset, void* y) {
  Normalize(c, rows, {c.dtype, channels, 0, 0, 1e-5f, true, x, scale, offset, y});
}

void RmsNorm(const Context& c, int64_t rows, int64_t channels, float epsilon, const void* x,
             const float* scale, void* y) {
  Normalize(c, rows, {c.dtype, channels, 0, 0, epsilon, false, x, scale, nullptr, y});
}

void Add(const Context& c, int64_t n, const void* h, void* x) { Elementwise(c, -1, n, h, x); }

void Activate(const Context& c, Activation f, int64_t n, const void* gate, void* x) {
  Elementwise(c, static_cast<int>(f), n, gate, x);
}

int64_t AttentionMemoryFloats(int64_t length, int64_t channels, int64_t heads) {
  const int64_t d = channels / heads;
  return heads * (d * Padded(length) + length * Padded(d));
}

void PackMemory(const Context& c, int64_t length, int64_t channels, int64_t heads, const void* k,
                const void* v, float* packed) {
  if (c.workspace.measuring()) return;
  const int64_t d = channels / heads, wide = Padded(length), deep = Padded(d);
  ParallelFor(c.executor, heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      float* keys = packed + head * (d * wide + length * deep);
      float* values = keys + d * wide;
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t l = 0; l < wide; ++l) {
          keys[i * wide + l] = l < length ? LoadAt(c.dtype, k, l * channels + head * d + i) : 0.0f;
        }
      }
      for (int64_t l = 0; l < length; ++l) {
        for (int64_t i = 0; i < deep; ++i) {
          values[l * deep + i] = i < d ? LoadAt(c.dtype, v, l * channels + head * d + i) : 0.0f;
        }
      }
    }
  });
}

void Attend(const Context& c, int64_t time, int64_t length, int64_t channels, int64_t heads,
            float scale, const void* q, const float* packed, const float* bias, void* y) {
  const int64_t d = channels / heads, wide = Padded(length), deep = Padded(d);
  const int64_t rows = std::max<int64_t>(8, (time + 3) / 4), parts = (time + rows - 1) / rows;
  const int64_t scratch_floats = kRows * (wide + deep);
  const Workspace::Buffer scratch = c.workspace.TakeFloats(heads * parts * scratch_floats);
  if (c.workspace.measuring()) return;
  ParallelFor(c.executor, heads * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / parts, part = task % parts;
      const float* keys = packed + head * (d * wide + length * deep);
      AttendRows_Run({c.dtype, length, channels, d, head, part * rows,
                      std::min(time, (part + 1) * rows), time, scale, q, keys, keys + d * wide,
                      bias == nullptr ? nullptr : bias + head * time * length,
                      scratch.floats() + task * scratch_floats, y});
    }
  });
}

}  // namespace n2m
