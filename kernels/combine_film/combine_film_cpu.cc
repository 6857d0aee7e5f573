#include <algorithm>
#include <string>

#include "kernels/common/simd.h"
#include "noise2music/combine_film.h"

namespace n2m {
namespace {

using simd::BFloat16;

constexpr int64_t kChunkBytes = 128 << 10;  // one chunk of x: half of a small L2 cache
constexpr int64_t kRowsPerSum = 32;         // rows added before adding to the total: less rounding
constexpr int64_t kFilmColumns = 128;       // columns of `kernel` a task multiplies

// Rows of time a chunk holds. It depends on the shape of one batch item only, so that the partial
// sums, and with them the result, are the same for an item in any batch and on any number of
// threads.
int64_t RowsPerChunk(const CombineFilmShape& s) {
  const int64_t row_bytes = std::max<int64_t>(s.C, 1) * (s.dtype == DType::kFloat32 ? 4 : 2);
  return std::max<int64_t>(kChunkBytes / row_bytes, 8);
}

int64_t Chunks(const CombineFilmShape& s) {
  const int64_t rows = RowsPerChunk(s);
  return (s.T + rows - 1) / rows;
}

Status Check(const CombineFilmShape& s) {
  if (s.B < 0 || s.T < 0 || s.C < 0 || s.E < 0) {
    return Status::InvalidArgument(
        "n2m.combine_film: sizes must be at least 0, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C) + " E=" + std::to_string(s.E));
  }
  if (s.G < 0 || (s.G > 0 && s.C % s.G != 0)) {
    return Status::InvalidArgument(
        "n2m.combine_film: groups must be a positive divisor of C, got " + std::to_string(s.G) +
        " for C=" + std::to_string(s.C));
  }
  return Status::Ok();
}

// film[b, j] = bias[j] + sum_e emb[b, e] kernel[e, j] for j in [begin, end) and every b.
struct FilmArgs {
  const float *emb, *kernel, *bias;
  float* film;
  int64_t B, E, columns, begin, end;
};

template <int L>
struct Film {
  static N2M_INLINE void Run(const FilmArgs& a) {
    for (int64_t b = 0; b < a.B; ++b) {
      const float* emb = a.emb + b * a.E;
      float* film = a.film + b * a.columns;
      int64_t j = a.begin;
      for (; j + 4 * L <= a.end; j += 4 * L) {
        simd::Float<L> sum[4];
        for (int u = 0; u < 4; ++u) sum[u] = simd::Load<L>(a.bias + j + u * L);
        for (int64_t e = 0; e < a.E; ++e) {
          const float* row = a.kernel + e * a.columns + j;
          for (int u = 0; u < 4; ++u) sum[u] += emb[e] * simd::Load<L>(row + u * L);
        }
        for (int u = 0; u < 4; ++u) simd::Store<L>(film + j + u * L, sum[u]);
      }
      for (; j < a.end; j += L) {
        const int n = a.end - j < L ? static_cast<int>(a.end - j) : L;
        simd::Float<L> sum = simd::LoadPart<L>(a.bias + j, n);
        for (int64_t e = 0; e < a.E; ++e) {
          sum += emb[e] * simd::LoadPart<L>(a.kernel + e * a.columns + j, n);
        }
        simd::StorePart<L>(film + j, sum, n);
      }
    }
  }
};
N2M_MULTI_ISA(Film, FilmArgs)

// One chunk of rows of one batch item.
struct RowsArgs {
  const void *x, *dy;
  void* out;           // y or dx
  const float* film;   // scale (C), shift (C) of this item
  const float* dsums;  // (G,2) of this item, or null
  float* partial;      // per-channel pairs (2,C) of this chunk, or null
  int64_t rows, C, G;
  DType dtype;
};

// Without sums nothing is carried from row to row, so rows are the outer loop: memory is streamed.
template <int L, class T>
N2M_INLINE void StreamRows(const RowsArgs& a) {
  const float* film = a.film;
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = static_cast<const T*>(a.x) + t * a.C;
    T* y = static_cast<T*>(a.out) + t * a.C;
    int64_t c = 0;
    for (; c + L <= a.C; c += L) {
      const simd::Float<L> scale = 1.0f + simd::Load<L>(film + c);
      simd::Store<L>(y + c, simd::Load<L>(x + c) * scale + simd::Load<L>(film + a.C + c));
    }
    for (; c < a.C; ++c) {
      simd::StoreOne(y + c, simd::LoadOne(x + c) * (1.0f + film[c]) + film[a.C + c]);
    }
  }
}

// Channels are the outer loop in blocks of lanes, so that scale, shift and the two per-channel sums
// stay in registers over all rows of the chunk; the chunk fits in the cache.
template <int L, class T>
N2M_INLINE void ForwardRows(const RowsArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.out);
  for (int64_t c = 0; c < a.C; c += L) {
    if (c + L <= a.C) {
      const simd::Float<L> scale = 1.0f + simd::Load<L>(a.film + c);
      const simd::Float<L> shift = simd::Load<L>(a.film + a.C + c);
      simd::Float<L> sum{}, squares{};
      for (int64_t start = 0; start < a.rows; start += kRowsPerSum) {
        const int64_t end = start + kRowsPerSum < a.rows ? start + kRowsPerSum : a.rows;
        simd::Float<L> part{}, part_squares{};
        for (int64_t t = start; t < end; ++t) {
          T* out = y + t * a.C + c;
          simd::Store<L>(out, simd::Load<L>(x + t * a.C + c) * scale + shift);
          const simd::Float<L> stored = simd::Load<L>(out);
          part += stored;
          part_squares += stored * stored;
        }
        sum += part;
        squares += part_squares;
      }
      simd::Store<L>(a.partial + c, sum);
      simd::Store<L>(a.partial + a.C + c, squares);
    } else {
      for (int64_t i = c; i < a.C; ++i) {
        const float scale = 1.0f + a.film[i], shift = a.film[a.C + i];
        double sum = 0, squares = 0;
        for (int64_t t = 0; t < a.rows; ++t) {
          T* out = y + t * a.C + i;
          simd::StoreOne(out, simd::LoadOne(x + t * a.C + i) * scale + shift);
          const double stored = simd::LoadOne(out);
          sum += stored;
          squares += stored * stored;
        }
        a.partial[i] = static_cast<float>(sum);
        a.partial[a.C + i] = static_cast<float>(squares);
      }
    }
  }
}

// g = dy + dsum + 2 y dsquares;  dx = g (1 + scale);  partial = [sum_t g x, sum_t g].
template <int L, class T>
N2M_INLINE void BackwardRows(const RowsArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  const T* dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.out);
  const int64_t width = a.G > 0 ? a.C / a.G : 1;
  for (int64_t c = 0; c < a.C; c += L) {
    const int n = a.C - c < L ? static_cast<int>(a.C - c) : L;
    const simd::Float<L> scale = 1.0f + simd::LoadPart<L>(a.film + c, n);
    const simd::Float<L> shift = simd::LoadPart<L>(a.film + a.C + c, n);
    simd::Float<L> dsum{}, dsquares{};
    if (a.dsums != nullptr) {
      for (int i = 0; i < n; ++i) {
        const int64_t group = (c + i) / width;
        dsum[i] = a.dsums[2 * group];
        dsquares[i] = 2.0f * a.dsums[2 * group + 1];
      }
    }
    simd::Float<L> dscale{}, dshift{};
    const bool full = n == L;
    for (int64_t start = 0; start < a.rows; start += kRowsPerSum) {
      const int64_t end = start + kRowsPerSum < a.rows ? start + kRowsPerSum : a.rows;
      simd::Float<L> part_scale{}, part_shift{};
      for (int64_t t = start; t < end; ++t) {
        const int64_t at = t * a.C + c;
        const simd::Float<L> xv = full ? simd::Load<L>(x + at) : simd::LoadPart<L>(x + at, n);
        simd::Float<L> g = full ? simd::Load<L>(dy + at) : simd::LoadPart<L>(dy + at, n);
        if (a.dsums != nullptr) g += dsum + (xv * scale + shift) * dsquares;
        part_scale += g * xv;
        part_shift += g;
        if (full) {
          simd::Store<L>(dx + at, g * scale);
        } else {
          simd::StorePart<L>(dx + at, g * scale, n);
        }
      }
      dscale += part_scale;
      dshift += part_shift;
    }
    simd::StorePart<L>(a.partial + c, dscale, n);
    simd::StorePart<L>(a.partial + a.C + c, dshift, n);
  }
}

template <int L>
struct Forward {
  static N2M_INLINE void Run(const RowsArgs& a) {
    const bool f32 = a.dtype == DType::kFloat32;
    if (a.partial == nullptr) {
      f32 ? StreamRows<L, float>(a) : StreamRows<L, BFloat16>(a);
    } else {
      f32 ? ForwardRows<L, float>(a) : ForwardRows<L, BFloat16>(a);
    }
  }
};
N2M_MULTI_ISA(Forward, RowsArgs)

template <int L>
struct Backward {
  static N2M_INLINE void Run(const RowsArgs& a) {
    if (a.dtype == DType::kFloat32) {
      BackwardRows<L, float>(a);
    } else {
      BackwardRows<L, BFloat16>(a);
    }
  }
};
N2M_MULTI_ISA(Backward, RowsArgs)

// row[j] += sum_b emb[b] dfilm[b, j]: one row of dkernel, or of dbias with emb == null.
struct DKernelArgs {
  const float *emb, *dfilm;
  float* row;
  int64_t B, E, columns;
};

template <int L>
struct DKernel {
  static N2M_INLINE void Run(const DKernelArgs& a) {
    for (int64_t j = 0; j < a.columns; j += L) {
      const int n = a.columns - j < L ? static_cast<int>(a.columns - j) : L;
      simd::Float<L> sum{};
      for (int64_t b = 0; b < a.B; ++b) {
        const float* from = a.dfilm + b * a.columns + j;
        const simd::Float<L> d = n == L ? simd::Load<L>(from) : simd::LoadPart<L>(from, n);
        sum += (a.emb == nullptr ? 1.0f : a.emb[b * a.E]) * d;
      }
      if (n == L) {
        simd::Store<L>(a.row + j, sum);
      } else {
        simd::StorePart<L>(a.row + j, sum, n);
      }
    }
  }
};
N2M_MULTI_ISA(DKernel, DKernelArgs)

// out = sum_j a[j] b[j]
struct DotArgs {
  const float *a, *b;
  float* out;
  int64_t n;
};

template <int L>
struct Dot {
  static N2M_INLINE void Run(const DotArgs& a) {
    simd::Float<L> sum[4] = {};
    int64_t j = 0;
    for (; j + 4 * L <= a.n; j += 4 * L) {
      for (int u = 0; u < 4; ++u) {
        sum[u] += simd::Load<L>(a.a + j + u * L) * simd::Load<L>(a.b + j + u * L);
      }
    }
    for (; j < a.n; j += L) {
      const int n = a.n - j < L ? static_cast<int>(a.n - j) : L;
      sum[0] += simd::LoadPart<L>(a.a + j, n) * simd::LoadPart<L>(a.b + j, n);
    }
    *a.out = simd::Sum<L>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
};
N2M_MULTI_ISA(Dot, DotArgs)

void ComputeFilm(const CombineFilmShape& s, const float* emb, const float* kernel,
                 const float* bias, float* film, Executor& executor) {
  ParallelFor(executor, 2 * s.C, kFilmColumns, [&](int64_t begin, int64_t end) {
    Film_Run({emb, kernel, bias, film, s.B, s.E, 2 * s.C, begin, end});
  });
}

}  // namespace

int64_t CombineFilmFwdScratch(const CombineFilmShape& s) {
  return s.B * 2 * s.C * (1 + (s.G > 0 ? Chunks(s) : 0));
}

int64_t CombineFilmBwdScratch(const CombineFilmShape& s) { return s.B * 2 * s.C * (1 + Chunks(s)); }

Status CombineFilmFwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, void* y, float* sums, float* scratch,
                      Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C, rows = RowsPerChunk(s), chunks = Chunks(s);
  float* film = scratch;
  float* partial = scratch + s.B * columns;
  ComputeFilm(s, emb, kernel, bias, film, executor);
  const int64_t item_bytes = s.dtype == DType::kFloat32 ? 4 : 2;
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, t = (i % chunks) * rows;
      const int64_t at = (b * s.T + t) * s.C * item_bytes;
      Forward_Run({static_cast<const char*>(x) + at, nullptr, static_cast<char*>(y) + at,
                   film + b * columns, nullptr, s.G > 0 ? partial + i * columns : nullptr,
                   std::min(rows, s.T - t), s.C, s.G, s.dtype});
    }
  });
  if (s.G == 0) return Status::Ok();
  // Few numbers, so added in double, always in the same order.
  const int64_t width = s.C / s.G;
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t g = 0; g < s.G; ++g) {
      double sum = 0, squares = 0;
      for (int64_t k = 0; k < chunks; ++k) {
        const float* from = partial + (b * chunks + k) * columns + g * width;
        for (int64_t c = 0; c < width; ++c) {
          sum += from[c];
          squares += from[s.C + c];
        }
      }
      sums[(b * s.G + g) * 2] = static_cast<float>(sum);
      sums[(b * s.G + g) * 2 + 1] = static_cast<float>(squares);
    }
  }
  return Status::Ok();
}

Status CombineFilmBwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, const void* dy, const float* dsums,
                      void* dx, float* dfilm, float* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C, rows = RowsPerChunk(s), chunks = Chunks(s);
  float* film = scratch;
  float* partial = scratch + s.B * columns;
  ComputeFilm(s, emb, kernel, bias, film, executor);
  const int64_t item_bytes = s.dtype == DType::kFloat32 ? 4 : 2;
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, t = (i % chunks) * rows;
      const int64_t at = (b * s.T + t) * s.C * item_bytes;
      Backward_Run({static_cast<const char*>(x) + at, static_cast<const char*>(dy) + at,
                    static_cast<char*>(dx) + at, film + b * columns,
                    s.G > 0 ? dsums + b * s.G * 2 : nullptr, partial + i * columns,
                    std::min(rows, s.T - t), s.C, s.G, s.dtype});
    }
  });
  for (int64_t b = 0; b < s.B; ++b) {
    float* out = dfilm + b * columns;
    std::fill(out, out + columns, 0.0f);
    for (int64_t k = 0; k < chunks; ++k) {
      const float* from = partial + (b * chunks + k) * columns;
      for (int64_t j = 0; j < columns; ++j) out[j] += from[j];
    }
  }
  return Status::Ok();
}

Status CombineFilmBwdParams(const CombineFilmShape& s, const float* emb, const float* kernel,
                            const float* dfilm, float* demb, float* dkernel, float* dbias,
                            Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C;
  DKernel_Run({nullptr, dfilm, dbias, s.B, s.E, columns});
  ParallelFor(executor, s.E, 8, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      DKernel_Run({emb + e, dfilm, dkernel + e * columns, s.B, s.E, columns});
      for (int64_t b = 0; b < s.B; ++b) {
        Dot_Run({kernel + e * columns, dfilm + b * columns, demb + b * s.E + e, columns});
      }
    }
  });
  return Status::Ok();
}

}  // namespace n2m
