#include <algorithm>
#include <cstring>

#include "kernels/combine_film/combine_film_check.h"
#include "kernels/common/nontemporal.h"
#include "kernels/common/simd.h"
#include "noise2music/combine_film.h"

namespace n2m {
namespace {

using combine_film::Check;
using simd::BFloat16;
using simd::NativeBFloat16;

constexpr int64_t kChunkBytes = 128 << 10;  // one chunk of x: a task is worth its start
constexpr int64_t kMostRows = 256;          // of a chunk: a float32 sum of more would lose digits
constexpr int64_t kFew = 8;                 // rows of a block: two of them fit L1
constexpr int64_t kAheadX = 512;            // elements that x is fetched ahead
constexpr int64_t kAheadY = 256;            // and y, where it goes through the caches
constexpr int64_t kNontemporalBytes = 2 << 20;  // of y: with as much of x, more than L2 holds
constexpr int64_t kSumGrain = 16384;            // pairs of sums a task adds up
constexpr int64_t kFilmColumns = 128;           // columns of `kernel` a task multiplies

// Rows of time a chunk holds. It depends on the shape of one batch item only, so that the partial
// sums, and with them the result, are the same for an item in any batch and on any number of
// threads.
int64_t RowsPerChunk(const CombineFilmShape& s) {
  const int64_t row_bytes = std::max<int64_t>(s.C, 1) * (s.dtype == DType::kFloat32 ? 4 : 2);
  return std::clamp<int64_t>(kChunkBytes / row_bytes, 8, kMostRows);
}

int64_t Chunks(const CombineFilmShape& s) {
  const int64_t rows = RowsPerChunk(s);
  return (s.T + rows - 1) / rows;
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

// One chunk of rows of one batch item. Rows are the outer loop everywhere: memory is streamed.
struct RowsArgs {
  const void *x, *dy;
  void* out;           // y or dx
  const float* film;   // scale (C), shift (C) of this item
  const float* dsums;  // cotangents by channel, of the sum (C) and twice that of the squares (C)
  float* partial;      // pairs by channel (2,C) of this chunk, zeroed here; or null
  int64_t rows, C;
  DType dtype;
  bool rounds;               // the processor rounds to bfloat16
  bool nontemporal = false;  // y goes past the caches
};

// y = x (1 + scale) + shift
template <int L, class T>
N2M_INLINE simd::Float<L> Modulate(const T* x, const float* scale, const float* shift) {
  return simd::Load<L>(x) * (1.0f + simd::Load<L>(scale)) + simd::Load<L>(shift);
}

// The channels from `first` on, too few for a vector.
template <class T>
N2M_INLINE void ForwardRest(const RowsArgs& a, int64_t first) {
  for (int64_t t = 0; t < a.rows; ++t) {
    for (int64_t c = first; c < a.C; ++c) {
      const int64_t at = t * a.C + c;
      const float x = simd::LoadOne(static_cast<const T*>(a.x) + at);
      T* y = static_cast<T*>(a.out) + at;
      simd::StoreOne(y, x * (1.0f + a.film[c]) + a.film[a.C + c]);
      if (a.partial == nullptr) continue;
      const float value = simd::LoadOne(y);
      a.partial[c] += value;
      a.partial[a.C + c] += value * value;
    }
  }
}

// A block of a few rows is made in the order of memory while the block before it, which is in L1,
// is added to the sums by channel: for every column of sums as many vectors of y as the block has
// rows, so that memory is never idle during the additions. Summed is y as stored; where that went
// past the caches it is computed again, to the same bits.
template <int L, bool kNontemporal, class T>
N2M_INLINE void ForwardRows(const RowsArgs& a) {
  const float *scale = a.film, *shift = a.film + a.C;
  float *sums = a.partial, *squares = a.partial + a.C;
  if (sums != nullptr) std::memset(sums, 0, sizeof(float) * 2 * static_cast<size_t>(a.C));
  const int64_t whole = a.C / L * L, rest = a.C - whole;
  for (int64_t t = 0, before = 0; t < a.rows || before > 0; t += kFew) {
    const int64_t left = a.rows - t, rows = left > kFew ? kFew : left > 0 ? left : 0;
    const T *x = static_cast<const T*>(a.x) + t * a.C, *x_before = x - kFew * a.C;
    T *y = static_cast<T*>(a.out) + t * a.C, *y_before = y - kFew * a.C;
    int64_t c = 0;
    for (int64_t column = 0; column < whole; column += L) {
      for (int64_t r = 0; r < rows; ++r) {
        __builtin_prefetch(x + kAheadX);
        const simd::Float<L> value = Modulate<L>(x, scale + c, shift + c);
        if constexpr (kNontemporal) {
          nontemporal::Store<L>(y, value);
        } else {
          __builtin_prefetch(y + kAheadY, 1);
          simd::Store<L>(y, value);
        }
        x += L, y += L, c += L;
        if (c == whole) x += rest, y += rest, c = 0;
      }
      if (before == 0) continue;
      simd::Float<L> sum{}, square{};
      for (int64_t r = 0; r < before; ++r) {
        const int64_t at = r * a.C + column;
        const simd::Float<L> value =
            kNontemporal ? Modulate<L>(x_before + at, scale + column, shift + column)
                         : simd::Load<L>(y_before + at);
        sum += value;
        square += value * value;
      }
      simd::Store<L>(sums + column, simd::Load<L>(sums + column) + sum);
      simd::Store<L>(squares + column, simd::Load<L>(squares + column) + square);
    }
    before = sums == nullptr ? 0 : rows;
  }
  if constexpr (kNontemporal) nontemporal::Fence();
  if (rest > 0) ForwardRest<T>(a, whole);
}

// q = dy + dsum + 2 y dsquares;  dx = q (1 + scale);  partial = [sum_t q x, sum_t q].
template <int L, class T>
N2M_INLINE void BackwardRows(const RowsArgs& a) {
  float *dscale = a.partial, *dshift = a.partial + a.C;
  std::memset(a.partial, 0, sizeof(float) * 2 * static_cast<size_t>(a.C));
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = static_cast<const T*>(a.x) + t * a.C;
    const T* dy = static_cast<const T*>(a.dy) + t * a.C;
    T* dx = static_cast<T*>(a.out) + t * a.C;
    int64_t c = 0;
    for (; c + L <= a.C; c += L) {
      const simd::Float<L> scale = 1.0f + simd::Load<L>(a.film + c), xv = simd::Load<L>(x + c);
      simd::Float<L> q = simd::Load<L>(dy + c);
      if (a.dsums != nullptr) {
        const simd::Float<L> y = xv * scale + simd::Load<L>(a.film + a.C + c);
        q += simd::Load<L>(a.dsums + c) + y * simd::Load<L>(a.dsums + a.C + c);
      }
      simd::Store<L>(dscale + c, simd::Load<L>(dscale + c) + q * xv);
      simd::Store<L>(dshift + c, simd::Load<L>(dshift + c) + q);
      simd::Store<L>(dx + c, q * scale);
    }
    for (; c < a.C; ++c) {
      const float scale = 1.0f + a.film[c], xv = simd::LoadOne(x + c);
      float q = simd::LoadOne(dy + c);
      if (a.dsums != nullptr) {
        q += a.dsums[c] + (xv * scale + a.film[a.C + c]) * a.dsums[a.C + c];
      }
      dscale[c] += q * xv;
      dshift[c] += q;
      simd::StoreOne(dx + c, q * scale);
    }
  }
}

template <int L>
struct Forward {
  static N2M_INLINE void Run(const RowsArgs& a) {
    if (a.dtype == DType::kFloat32) {
      return a.nontemporal ? ForwardRows<L, true, float>(a) : ForwardRows<L, false, float>(a);
    }
    if constexpr (L == 16) {
      if (a.rounds) return ForwardRows<L, false, NativeBFloat16>(a);
    }
    ForwardRows<L, false, BFloat16>(a);
  }
};
N2M_MULTI_ISA(Forward, RowsArgs)

template <int L>
struct Backward {
  static N2M_INLINE void Run(const RowsArgs& a) {
    if (a.dtype == DType::kFloat32) return BackwardRows<L, float>(a);
    if constexpr (L == 16) {
      if (a.rounds) return BackwardRows<L, NativeBFloat16>(a);
    }
    BackwardRows<L, BFloat16>(a);
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
  if (!Check(s).ok()) return 0;
  return s.B * 2 * s.C * (1 + (s.G > 0 ? Chunks(s) : 0));
}

int64_t CombineFilmBwdScratch(const CombineFilmShape& s) {
  if (!Check(s).ok()) return 0;
  return s.B * 2 * s.C * (1 + (s.G > 0) + Chunks(s));
}

Status CombineFilmFwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, void* y, float* sums, float* scratch,
                      Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C, rows = RowsPerChunk(s), chunks = Chunks(s);
  float* film = scratch;
  float* partial = scratch + s.B * columns;
  ComputeFilm(s, emb, kernel, bias, film, executor);
  const int64_t item_bytes = s.dtype == DType::kFloat32 ? 4 : 2;
  const bool nontemporal = s.dtype == DType::kFloat32 && nontemporal::OnALine(y) &&
                           nontemporal::OnALine(s.C * item_bytes) &&
                           s.B * s.T * s.C * item_bytes >= kNontemporalBytes;
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, t = (i % chunks) * rows;
      const int64_t at = (b * s.T + t) * s.C * item_bytes;
      Forward_Run({static_cast<const char*>(x) + at, nullptr, static_cast<char*>(y) + at,
                   film + b * columns, nullptr, s.G > 0 ? partial + i * columns : nullptr,
                   std::min(rows, s.T - t), s.C, s.dtype, RoundsToBFloat16(), nontemporal});
    }
  });
  if (s.G == 0) return Status::Ok();
  // Added in double, always in the same order.
  const int64_t width = s.C / s.G;
  const int64_t grain = kSumGrain / std::max<int64_t>(chunks * width, 1) + 1;
  ParallelFor(executor, s.B * s.G, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* from = partial + i / s.G * chunks * columns + i % s.G * width;
      double sum = 0, squares = 0;
      for (int64_t k = 0; k < chunks; ++k, from += columns) {
        for (int64_t c = 0; c < width; ++c) {
          sum += from[c];
          squares += from[s.C + c];
        }
      }
      sums[2 * i] = static_cast<float>(sum);
      sums[2 * i + 1] = static_cast<float>(squares);
    }
  });
  return Status::Ok();
}

Status CombineFilmBwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, const void* dy, const float* dsums,
                      void* dx, float* dfilm, float* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C, rows = RowsPerChunk(s), chunks = Chunks(s);
  float* film = scratch;
  float* by_channel = film + s.B * columns;
  float* partial = by_channel + (s.G > 0 ? s.B * columns : 0);
  ComputeFilm(s, emb, kernel, bias, film, executor);
  for (int64_t i = 0; s.G > 0 && i < s.B * s.C; ++i) {
    const int64_t b = i / s.C, c = i % s.C;
    const float* pair = dsums + (b * s.G + c / (s.C / s.G)) * 2;
    by_channel[b * columns + c] = pair[0];
    by_channel[b * columns + s.C + c] = 2.0f * pair[1];
  }
  const int64_t item_bytes = s.dtype == DType::kFloat32 ? 4 : 2;
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, t = (i % chunks) * rows;
      const int64_t at = (b * s.T + t) * s.C * item_bytes;
      Backward_Run({static_cast<const char*>(x) + at, static_cast<const char*>(dy) + at,
                    static_cast<char*>(dx) + at, film + b * columns,
                    s.G > 0 ? by_channel + b * columns : nullptr, partial + i * columns,
                    std::min(rows, s.T - t), s.C, s.dtype, RoundsToBFloat16()});
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
