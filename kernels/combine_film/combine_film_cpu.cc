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
constexpr int64_t kAheadX = 512;            // elements that x and dy are fetched ahead
constexpr int64_t kAheadY = 256;            // and the result, where it goes through the caches
constexpr int64_t kNontemporalBytes = 2
                                      << 20;  // of a result: with as much of x, more than L2 holds
constexpr int64_t kSumGrain = 16384;          // pairs of sums a task adds up
constexpr int64_t kFilmColumns = 128;         // columns of `kernel` a task multiplies

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
  bool rounds;       // the processor rounds to bfloat16
  bool nontemporal;  // the result goes past the caches
};

// What a pass over rows makes: at the element `at`, of channel c, `Value` is stored and the two
// `Terms` are added to the sums by channel. x and y, or x and dy, are near when Terms asks for
// them.

// y = x (1 + scale) + shift; the terms y and y^2 are of y as stored. Where that went past the
// caches it is computed again, to the same bits.
template <int L, bool kNontemporal, class T>
struct ForwardPass {
  using Type = T;
  const T* x;
  const T* y;
  const float *scale, *shift;

  explicit N2M_INLINE ForwardPass(const RowsArgs& a)
      : x(static_cast<const T*>(a.x)),
        y(static_cast<const T*>(a.out)),
        scale(a.film),
        shift(a.film + a.C) {}
  N2M_INLINE void Prefetch(int64_t at) const { __builtin_prefetch(x + at + kAheadX); }
  N2M_INLINE simd::Float<L> Value(int64_t at, int64_t c) const {
    return simd::Load<L>(x + at) * (1.0f + simd::Load<L>(scale + c)) + simd::Load<L>(shift + c);
  }
  N2M_INLINE void Terms(int64_t at, int64_t c, simd::Float<L>* one, simd::Float<L>* two) const {
    *one = kNontemporal ? Value(at, c) : simd::Load<L>(y + at);
    *two = *one * *one;
  }
  N2M_INLINE float ValueOne(int64_t at, int64_t c) const {
    return simd::LoadOne(x + at) * (1.0f + scale[c]) + shift[c];
  }
  N2M_INLINE void TermsOne(int64_t at, int64_t, float* one, float* two) const {
    *one = simd::LoadOne(y + at);
    *two = *one * *one;
  }
};

// q = dy + dsum + 2 y dsquares;  dx = q (1 + scale);  the terms are those of dscale, q x, and of
// dshift, q.
template <int L, class T>
struct BackwardPass {
  using Type = T;
  const T *x, *dy;
  const float *scale, *shift, *dsum, *dsquares;  // the last two, of y and doubled, or null

  explicit N2M_INLINE BackwardPass(const RowsArgs& a)
      : x(static_cast<const T*>(a.x)),
        dy(static_cast<const T*>(a.dy)),
        scale(a.film),
        shift(a.film + a.C),
        dsum(a.dsums),
        dsquares(a.dsums == nullptr ? nullptr : a.dsums + a.C) {}
  N2M_INLINE void Prefetch(int64_t at) const {
    __builtin_prefetch(x + at + kAheadX);
    __builtin_prefetch(dy + at + kAheadX);
  }
  N2M_INLINE simd::Float<L> Cotangent(int64_t at, int64_t c, simd::Float<L> gain) const {
    const simd::Float<L> q = simd::Load<L>(dy + at);
    if (dsum == nullptr) return q;
    const simd::Float<L> y = simd::Load<L>(x + at) * gain + simd::Load<L>(shift + c);
    return q + (simd::Load<L>(dsum + c) + y * simd::Load<L>(dsquares + c));
  }
  N2M_INLINE simd::Float<L> Value(int64_t at, int64_t c) const {
    const simd::Float<L> gain = 1.0f + simd::Load<L>(scale + c);
    return Cotangent(at, c, gain) * gain;
  }
  N2M_INLINE void Terms(int64_t at, int64_t c, simd::Float<L>* one, simd::Float<L>* two) const {
    *two = Cotangent(at, c, 1.0f + simd::Load<L>(scale + c));
    *one = *two * simd::Load<L>(x + at);
  }
  N2M_INLINE float CotangentOne(int64_t at, int64_t c) const {
    const float q = simd::LoadOne(dy + at);
    if (dsum == nullptr) return q;
    return q + (dsum[c] + (simd::LoadOne(x + at) * (1.0f + scale[c]) + shift[c]) * dsquares[c]);
  }
  N2M_INLINE float ValueOne(int64_t at, int64_t c) const {
    return CotangentOne(at, c) * (1.0f + scale[c]);
  }
  N2M_INLINE void TermsOne(int64_t at, int64_t c, float* one, float* two) const {
    *two = CotangentOne(at, c);
    *one = *two * simd::LoadOne(x + at);
  }
};

// A block of a few rows is made in the order of memory while the block before it, which is in L1,
// is added to the sums by channel: for every column of sums as many vectors of the result as the
// block has rows, so that memory is never idle during the additions.
template <int L, bool kNontemporal, class Pass>
N2M_INLINE void Rows(const RowsArgs& a) {
  const Pass pass(a);
  auto* out = static_cast<typename Pass::Type*>(a.out);
  float *ones = a.partial, *twos = a.partial + a.C;
  if (ones != nullptr) std::memset(ones, 0, sizeof(float) * 2 * static_cast<size_t>(a.C));
  const int64_t whole = a.C / L * L, rest = a.C - whole;
  for (int64_t t = 0, before = 0; t < a.rows || before > 0; t += kFew) {
    const int64_t left = a.rows - t, rows = left > kFew ? kFew : left > 0 ? left : 0;
    int64_t at = t * a.C, c = 0;
    const int64_t at_before = at - kFew * a.C;
    for (int64_t column = 0; column < whole; column += L) {
      for (int64_t r = 0; r < rows; ++r) {
        pass.Prefetch(at);
        const simd::Float<L> value = pass.Value(at, c);
        if constexpr (kNontemporal) {
          nontemporal::Store<L>(out + at, value);
        } else {
          __builtin_prefetch(out + at + kAheadY, 1);
          simd::Store<L>(out + at, value);
        }
        at += L, c += L;
        if (c == whole) at += rest, c = 0;
      }
      if (before == 0) continue;
      simd::Float<L> sum{}, other{}, one, two;
      for (int64_t r = 0; r < before; ++r) {
        pass.Terms(at_before + r * a.C + column, column, &one, &two);
        sum += one;
        other += two;
      }
      simd::Store<L>(ones + column, simd::Load<L>(ones + column) + sum);
      simd::Store<L>(twos + column, simd::Load<L>(twos + column) + other);
    }
    before = ones == nullptr ? 0 : rows;
  }
  if constexpr (kNontemporal) nontemporal::Fence();
  // The channels that are too few for a vector.
  for (int64_t t = 0; rest > 0 && t < a.rows; ++t) {
    for (int64_t c = whole; c < a.C; ++c) {
      const int64_t at = t * a.C + c;
      simd::StoreOne(out + at, pass.ValueOne(at, c));
      if (ones == nullptr) continue;
      float one, two;
      pass.TermsOne(at, c, &one, &two);
      ones[c] += one;
      twos[c] += two;
    }
  }
}

template <int L>
struct Forward {
  template <bool kNontemporal, class T>
  static N2M_INLINE void Of(const RowsArgs& a) {
    Rows<L, kNontemporal, ForwardPass<L, kNontemporal, T>>(a);
  }
  static N2M_INLINE void Run(const RowsArgs& a) {
    if (a.dtype == DType::kFloat32) {
      return a.nontemporal ? Of<true, float>(a) : Of<false, float>(a);
    }
    if constexpr (L == 16) {
      if (a.rounds) return Of<false, NativeBFloat16>(a);
    }
    Of<false, BFloat16>(a);
  }
};
N2M_MULTI_ISA(Forward, RowsArgs)

template <int L>
struct Backward {
  template <bool kNontemporal, class T>
  static N2M_INLINE void Of(const RowsArgs& a) {
    Rows<L, kNontemporal, BackwardPass<L, T>>(a);
  }
  static N2M_INLINE void Run(const RowsArgs& a) {
    if (a.dtype == DType::kFloat32) {
      return a.nontemporal ? Of<true, float>(a) : Of<false, float>(a);
    }
    if constexpr (L == 16) {
      if (a.rounds) return Of<false, NativeBFloat16>(a);
    }
    Of<false, BFloat16>(a);
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

// Whether the result, of the size of x, goes past the caches. Not over x: its lines are in them,
// and the sums are computed from x again.
bool IsNontemporal(const CombineFilmShape& s, const void* x, const void* result) {
  return result != x && s.dtype == DType::kFloat32 && nontemporal::OnALine(result) &&
         nontemporal::OnALine(s.C * 4) && s.B * s.T * s.C * 4 >= kNontemporalBytes;
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
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, t = (i % chunks) * rows;
      const int64_t at = (b * s.T + t) * s.C * item_bytes;
      Forward_Run({static_cast<const char*>(x) + at, nullptr, static_cast<char*>(y) + at,
                   film + b * columns, nullptr, s.G > 0 ? partial + i * columns : nullptr,
                   std::min(rows, s.T - t), s.C, s.dtype, RoundsToBFloat16(),
                   IsNontemporal(s, x, y)});
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
                    std::min(rows, s.T - t), s.C, s.dtype, RoundsToBFloat16(),
                    IsNontemporal(s, x, dx)});
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
