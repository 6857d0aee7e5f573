// The inner loops of conv1d_block, once for every instruction set. Each struct is one step on one
// tile; the launchers in conv1d_block_cpu.cc cut the tensors into tiles.
//
// A tile of rows is held in float32, normalised and swished, with its halo, in a buffer that fits
// L2. The product with the weights is in conv1d_block_window.h.
#pragma once

#include <cstdint>

#include "kernels/common/simd.h"
#include "noise2music/types.h"

namespace n2m::conv1d_block {

using simd::BFloat16;
using simd::Float;
using simd::Load;
using simd::LoadPart;
using simd::Set;
using simd::Store;
using simd::StorePart;

// Rows of a register block: with 2 columns of vectors, 12 of the 16 registers of SSE and AVX2 hold
// sums, and 24 of the 32 of AVX-512.
template <int L>
constexpr int kRows = L == 16 ? 12 : 6;

// ------------------------------------------------------------------------------------------ load a
// tile

struct FillArgs {
  const void* x;  // the clip: (time, channels)
  DType dtype;
  int64_t time, channels;
  int64_t row0, rows;                 // rows to load; those outside [0, time) are zero
  int64_t first, width;               // channels to load
  const float *mean, *gain, *offset;  // swish((x - mean) * gain + offset) unless mean is null
  const void* y;                      // x + add + y * mul unless y is null
  const float *add, *mul;
  float* out;
  int64_t out_stride;  // at least width rounded up to whole vectors
};

template <int L>
struct Fill {
  // The vector of channels from c.
  static N2M_INLINE Float<L> Loaded(const FillArgs& a, int64_t c, Float<L> x, Float<L> y) {
    if (a.mean != nullptr) {
      x = (x - Load<L>(a.mean + c)) * Load<L>(a.gain + c) + Load<L>(a.offset + c);
      x = x * simd::Sigmoid<L>(x);
    }
    return a.y != nullptr ? x + Load<L>(a.add + c) + y * Load<L>(a.mul + c) : x;
  }
  // A copy of the arguments stays in registers; behind a reference a store might change them.
  template <class T>
  static N2M_INLINE void Typed(const FillArgs a) {
    const T *x = static_cast<const T*>(a.x), *y = static_cast<const T*>(a.y);
    const int64_t whole = a.width / L * L, rest = a.width - whole;
    for (int64_t r = 0; r < a.rows; ++r) {
      float* out = a.out + r * a.out_stride;
      const int64_t row = a.row0 + r;
      if (row < 0 || row >= a.time) {
        for (int64_t i = 0; i < a.width; i += L) Store<L>(out + i, Set<L>(0.0f));
        continue;
      }
      const int64_t at = row * a.channels + a.first;
      for (int64_t i = 0; i < whole; i += L) {
        const Float<L> u = y != nullptr ? Load<L>(y + at + i) : Float<L>{};
        Store<L>(out + i, Loaded(a, a.first + i, Load<L>(x + at + i), u));
      }
      if (rest > 0) {
        const int part = static_cast<int>(rest);
        const Float<L> u = y != nullptr ? LoadPart<L>(y + at + whole, part) : Float<L>{};
        const Float<L> v = LoadPart<L>(x + at + whole, part);
        Store<L>(out + whole, Loaded(a, a.first + whole, v, u));
      }
    }
  }
  static N2M_INLINE void Run(const FillArgs& a) {
    if (a.dtype == DType::kBFloat16) {
      Typed<BFloat16>(a);
    } else {
      Typed<float>(a);
    }
  }
};
N2M_MULTI_ISA(Fill, FillArgs)

// --------------------------------------------------------------------------------------- finish a
// tile

// Adds the lanes gathered over a few rows to float64 totals, which carry them over the clip.
template <int L>
N2M_INLINE void Flush(Float<L>* lanes, double* totals) {
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < L; ++i) totals[j * L + i] += lanes[j][i];
    lanes[j] = Set<L>(0.0f);
  }
}
constexpr int64_t kFlushRows = 8;

// Two vectors of a panel in a later row of a clip, to be written. Rows lie a kilobyte or more
// apart, where the processor does not fetch by itself.
constexpr int64_t kRowsAhead = 24;
template <int L, class T>
N2M_INLINE void FetchRow(const T* row, int64_t row_stride) {
  __builtin_prefetch(row + kRowsAhead * row_stride, 1);
  __builtin_prefetch(row + kRowsAhead * row_stride + L, 1);
}

struct StoreArgs {
  const float* c;  // (rows, 2 L)
  int64_t rows;
  void* y;  // the clip: (time, channels)
  DType dtype;
  int64_t channels, first, width;  // width <= 2 L channels from `first` are stored
  int64_t row0, row_step, time;    // row r goes to row0 + r row_step if that is in [0, time)
  double *sum, *squares;           // 2 L totals each, of the values as stored; may be null
};

template <int L>
struct StoreTile {
  template <class T>
  static N2M_INLINE void Typed(const StoreArgs& s) {
    T* y = static_cast<T*>(s.y);
    Float<L> sum[2] = {}, squares[2] = {};
    int64_t pending = 0;
    for (int64_t r = 0; r < s.rows; ++r) {
      const int64_t row = s.row0 + r * s.row_step;
      if (row < 0 || row >= s.time) continue;
      T* out = y + row * s.channels + s.first;
      FetchRow<L>(out, s.row_step * s.channels);
      for (int j = 0; j < 2; ++j) {
        Float<L> v = Load<L>(s.c + (r * 2 + j) * L);
        const int64_t left = s.width - j * L;
        if (left >= L) {
          Store<L>(out + j * L, v);
        } else {
          if (left > 0) StorePart<L>(out + j * L, v, static_cast<int>(left));
        }
        if (s.sum != nullptr) {
          v = simd::Rounded<L>(y, v);
          sum[j] += v;
          squares[j] += v * v;
        }
      }
      if (s.sum != nullptr && ++pending == kFlushRows) {
        Flush<L>(sum, s.sum);
        Flush<L>(squares, s.squares);
        pending = 0;
      }
    }
    if (s.sum != nullptr) {
      Flush<L>(sum, s.sum);
      Flush<L>(squares, s.squares);
    }
  }
  static N2M_INLINE void Run(const StoreArgs& s) {
    if (s.dtype == DType::kBFloat16) {
      Typed<BFloat16>(s);
    } else {
      Typed<float>(s);
    }
  }
};
N2M_MULTI_ISA(StoreTile, StoreArgs)

// Back through the swish and the normalisation: with u = (x - mean) gain + offset, s = sigmoid(u)
// and dh in c,
//   du = dh s (1 + u (1 - s)),  dx = du gain,  and the totals of du and du (x - mean) a channel.
struct GradArgs {
  StoreArgs store;  // sum and squares receive the totals of du and of du (x - mean)
  const void* x;    // the clip
  const float *mean, *gain, *offset;
};

template <int L>
struct GradTile {
  template <class T>
  static N2M_INLINE void Typed(const GradArgs& g) {
    const StoreArgs& s = g.store;
    const T* x = static_cast<const T*>(g.x);
    T* dx = static_cast<T*>(s.y);
    Float<L> total[2] = {}, moment[2] = {};
    int64_t pending = 0;
    for (int64_t r = 0; r < s.rows; ++r) {
      const int64_t row = s.row0 + r * s.row_step;
      if (row < 0 || row >= s.time) continue;
      FetchRow<L>(x + row * s.channels + s.first, s.row_step * s.channels);
      FetchRow<L>(dx + row * s.channels + s.first, s.row_step * s.channels);
      for (int j = 0; j < 2; ++j) {
        const int64_t c = s.first + j * L;
        const int64_t left = s.width - j * L;
        const int part = static_cast<int>(left);
        if (left <= 0) continue;
        const int64_t at = row * s.channels + c;
        const Float<L> v = left >= L ? Load<L>(x + at) : LoadPart<L>(x + at, part);
        const Float<L> gain = Load<L>(g.gain + c);
        const Float<L> centred = v - Load<L>(g.mean + c);
        const Float<L> u = centred * gain + Load<L>(g.offset + c);
        const Float<L> sigmoid = simd::Sigmoid<L>(u);
        const Float<L> dh = Load<L>(s.c + (r * 2 + j) * L);
        const Float<L> du = dh * (sigmoid * (1.0f + u * (1.0f - sigmoid)));
        if (left >= L) {
          Store<L>(dx + at, du * gain);
        } else {
          StorePart<L>(dx + at, du * gain, part);
        }
        total[j] += du;
        moment[j] += du * centred;
      }
      if (++pending == kFlushRows) {
        Flush<L>(total, s.sum);
        Flush<L>(moment, s.squares);
        pending = 0;
      }
    }
    Flush<L>(total, s.sum);
    Flush<L>(moment, s.squares);
  }
  static N2M_INLINE void Run(const GradArgs& g) {
    if (g.store.dtype == DType::kBFloat16) {
      Typed<BFloat16>(g);
    } else {
      Typed<float>(g);
    }
  }
};
N2M_MULTI_ISA(GradTile, GradArgs)

// Totals of each channel and, unless null, of its square, over rows of a (rows, channels) array.
struct TotalsArgs {
  const void* x;
  DType dtype;
  int64_t rows, channels;
  double *sum, *squares;  // added to; channels rounded up to 2 L
  int64_t stride = 0;     // of a row; 0: channels
};

template <int L>
struct Totals {
  template <class T>
  static N2M_INLINE void Typed(const TotalsArgs& s) {
    const T* x = static_cast<const T*>(s.x);
    const int64_t stride = s.stride > 0 ? s.stride : s.channels;
    for (int64_t c = 0; c < s.channels; c += 2 * L) {
      Float<L> sum[2] = {}, squares[2] = {};
      for (int64_t r = 0; r < s.rows; ++r) {
        for (int j = 0; j < 2; ++j) {
          const int64_t left = s.channels - c - j * L;
          if (left <= 0) continue;
          const T* at = x + r * stride + c + j * L;
          const Float<L> v = left >= L ? Load<L>(at) : LoadPart<L>(at, static_cast<int>(left));
          sum[j] += v;
          squares[j] += v * v;
        }
        if ((r + 1) % kFlushRows == 0 || r + 1 == s.rows) {
          Flush<L>(sum, s.sum + c);
          if (s.squares != nullptr) Flush<L>(squares, s.squares + c);
        }
      }
    }
  }
  static N2M_INLINE void Run(const TotalsArgs& s) {
    if (s.dtype == DType::kBFloat16) {
      Typed<BFloat16>(s);
    } else {
      Typed<float>(s);
    }
  }
};
N2M_MULTI_ISA(Totals, TotalsArgs)

// ----------------------------------------------------------------------------- the gradient of the
// weight

// Rows of `width` floats into strips of `strip` columns, each contiguous over the rows, zeros
// beyond width.
struct CutArgs {
  const float* from;
  int64_t stride, rows, width, strip, strips;
  float* to;  // strip s, row r: to + s * strip_floats + r * strip
  int64_t strip_floats;
};

template <int L>
struct CutStrips {
  // A row is stored in whole vectors: what goes beyond its strip is the next row's, written later.
  // The last row goes value by value, and what it is read from may end where it ends.
  template <int64_t kStrip>
  static N2M_INLINE void Strips(const CutArgs& a) {
    constexpr int kVectors = (kStrip + L - 1) / L;
    const int64_t stride = a.stride, last = a.rows - 1;
    for (int64_t s = 0; s < a.strips; ++s) {
      const float* from = a.from + s * kStrip;
      float* to = a.to + s * a.strip_floats;
      const int64_t rest = a.width - s * kStrip, columns = rest < kStrip ? rest : kStrip;
      simd::Int<L> exists[kVectors] = {};
      for (int v = 0; v < kVectors; ++v) {
        for (int i = 0; i < L; ++i) exists[v][i] = v * L + i < columns ? -1 : 0;
      }
      for (int64_t r = 0; r < last; ++r, from += stride, to += kStrip) {
        for (int v = 0; v < kVectors; ++v) {
          simd::Int<L> bits{};
          if (v * L < columns) {
            bits = simd::BitCast<simd::Int<L>>(Load<L>(from + v * L)) & exists[v];
          }
          Store<L>(to + v * L, simd::BitCast<Float<L>>(bits));
        }
      }
      for (int64_t i = 0; i < kStrip && last >= 0; ++i) to[i] = i < columns ? from[i] : 0.0f;
    }
  }
  static N2M_INLINE void Run(const CutArgs& a) {
    if (a.strip == kRows<L>) {
      Strips<kRows<L>>(a);
    } else {
      Strips<2 * L>(a);
    }
  }
};
N2M_MULTI_ISA(CutStrips, CutArgs)

// dst[k][m][n] (+)= sum over items and rows of h[item][row * step + k][m] dy[item][row][n]
struct OuterArgs {
  const float* h;   // (items, rows in, kRows)
  int64_t h_item;   // floats from one item to the next
  int64_t step;     // rows of h a row of dy
  const float* dy;  // (items, rows, 2 L)
  int64_t items, rows, taps;
  float* dst;
  int64_t tap_stride, row_stride;  // of dst
  int64_t height, width;           // rows and columns of dst that exist, <= kRows and 2 L
  bool add;                        // to what dst holds
};

template <int L>
struct Outer {
  static N2M_INLINE void Run(const OuterArgs& s) {
    constexpr int kR = kRows<L>;
    const bool whole = s.height == kR && s.width == 2 * L;
    float edge[kR * 2 * L];
    for (int64_t k = 0; k < s.taps; ++k) {
      float* out = s.dst + k * s.tap_stride;
      float* to = whole ? out : edge;
      const int64_t to_stride = whole ? s.row_stride : 2 * L;
      Float<L> acc[kR][2] = {};
      const float* dy = s.dy;
      const int64_t step = s.step * kR;
      for (int64_t item = 0; item < s.items; ++item) {
        const float* h = s.h + item * s.h_item + k * kR;
        for (int64_t t = 0; t < s.rows; ++t, h += step, dy += 2 * L) {
          const Float<L> d0 = Load<L>(dy), d1 = Load<L>(dy + L);
          for (int r = 0; r < kR; ++r) {
            acc[r][0] += d0 * h[r];
            acc[r][1] += d1 * h[r];
          }
        }
      }
      for (int r = 0; r < kR; ++r) {
        for (int j = 0; j < 2; ++j) {
          float* at = to + r * to_stride + j * L;
          Store<L>(at, whole && s.add ? Load<L>(at) + acc[r][j] : acc[r][j]);
        }
      }
      if (whole) continue;
      for (int64_t r = 0; r < s.height; ++r) {
        for (int64_t i = 0; i < s.width; ++i) {
          float& at = out[r * s.row_stride + i];
          at = (s.add ? at : 0.0f) + edge[r * 2 * L + i];
        }
      }
    }
  }
};
N2M_MULTI_ISA(Outer, OuterArgs)

}  // namespace n2m::conv1d_block
