// The three transforms of the Toom-Cook convolution F(m, K), once for every instruction set.
// toom_cook.py derives them; between them stands one matrix product a point, by Window.
//
// n = m + K - 1 points: 0, then +a and -a of each pair, then infinity. A pair +-a shares the sums
// over even and odd terms, so that a transform costs half of the matrix it stands for.
#pragma once

#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_points.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"

namespace n2m::conv1d_block {

// Runs a statement with the constant `n` for a number of points.
#define N2M_FOR_POINTS(points, ...)     \
  switch (points) {                     \
    case 8:                             \
      N2M_CONSTANT(n, 8, __VA_ARGS__);  \
      break;                            \
    case 10:                            \
      N2M_CONSTANT(n, 10, __VA_ARGS__); \
      break;                            \
    case 12:                            \
      N2M_CONSTANT(n, 12, __VA_ARGS__); \
      break;                            \
    default:                            \
      N2M_CONSTANT(n, 14, __VA_ARGS__); \
      break;                            \
  }

// The same with the constant `size` for the outputs or taps of the forms with n points that the
// planner picks: F(m, K) and, for the gradient of a weight, F(K, m).
#define N2M_FOR_SIZES(n, wanted, ...)                                       \
  switch (wanted) {                                                         \
    case 3:                                                                 \
      if constexpr (n <= 10) N2M_CONSTANT(size, 3, __VA_ARGS__);            \
      break;                                                                \
    case 4:                                                                 \
      if constexpr (n == 12) N2M_CONSTANT(size, 4, __VA_ARGS__);            \
      break;                                                                \
    case 5:                                                                 \
      if constexpr (n == 10 || n == 12) N2M_CONSTANT(size, 5, __VA_ARGS__); \
      break;                                                                \
    case 6:                                                                 \
      N2M_CONSTANT(size, 6, __VA_ARGS__);                                   \
      break;                                                                \
    case 7:                                                                 \
      if constexpr (n >= 12) N2M_CONSTANT(size, 7, __VA_ARGS__);            \
      break;                                                                \
    case 8:                                                                 \
      if constexpr (n >= 10) N2M_CONSTANT(size, 8, __VA_ARGS__);            \
      break;                                                                \
    default:                                                                \
      if constexpr (n >= 12) N2M_CONSTANT(size, 9, __VA_ARGS__);            \
      break;                                                                \
  }
#define N2M_CONSTANT(name, value, ...) \
  {                                    \
    constexpr int name = value;        \
    __VA_ARGS__;                       \
  }

// v = B^T d: row r of tile t is rows[(t m + r) row_stride + i].
struct DataArgs {
  int points;
  const float* rows;
  int64_t row_stride, tile_step;  // floats; tile_step is m rows
  int64_t tiles, width;           // channels; rows hold whole vectors
  // Channel j of block q, point p, tile t: v[q block_stride + p point_stride + t tile_stride + j].
  float* v;
  int64_t block, block_stride, point_stride, tile_stride;
};

template <int L>
struct DataTransform {
  template <int n>
  static N2M_INLINE void Points_(const DataArgs& a) {
    using P = Points<n>;
    constexpr int kPairs = P::kPairs;
    int64_t block = 0, in_block = 0;
    for (int64_t i = 0; i < a.width; i += L, in_block += L) {
      if (in_block >= a.block) {
        ++block;
        in_block = 0;
      }
      for (int64_t t = 0; t < a.tiles; ++t) {
        const float* from = a.rows + t * a.tile_step + i;
        float* to = a.v + block * a.block_stride + t * a.tile_stride + in_block;
        Float<L> d[n];
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) d[r] = Load<L>(from + r * a.row_stride);
        Float<L> zero = d[n - 2], infinity = d[n - 1];  // the leading coefficient is 1
#pragma GCC unroll 16
        for (int k = 0; k < kPairs; ++k) {
          zero += d[2 * k] * static_cast<float>(P::kProduct[k]);
          infinity += d[2 * k + 1] * static_cast<float>(P::kProduct[k]);
        }
        Store<L>(to, zero);
        Store<L>(to + (n - 1) * a.point_stride, infinity);
#pragma GCC unroll 16
        for (int j = 0; j < kPairs; ++j) {
          Float<L> even = d[2 * kPairs], odd = d[2 * kPairs - 1];
#pragma GCC unroll 16
          for (int k = 0; k < kPairs - 1; ++k) {
            even += d[2 * k + 2] * static_cast<float>(P::kQuotient[j][k]);
            odd += d[2 * k + 1] * static_cast<float>(P::kQuotient[j][k]);
          }
          const float at = static_cast<float>(P::kPower[j][1]);
          Store<L>(to + (2 * j + 1) * a.point_stride, even + odd * at);
          Store<L>(to + (2 * j + 2) * a.point_stride, even - odd * at);
        }
      }
    }
  }
  static N2M_INLINE void Run(const DataArgs& a) { N2M_FOR_POINTS(a.points, Points_<n>(a)) }
};
N2M_MULTI_ISA(DataTransform, DataArgs)

// u = G g, vector by vector: term k of item r is at from[k term_stride + r row_stride + i].
struct FilterArgs {
  int points, terms;
  const void* from;
  DType dtype;
  int64_t term_stride, row_stride;  // elements
  int64_t rows, width;              // width: elements of a row that exist; u gets zeros beyond
  int64_t panels;                   // a row makes 2 L columns of each:
  float* u;                         // point p, panel q: u[p point_stride + q panel_stride + r 2 L]
  int64_t point_stride, panel_stride;
};

template <int L>
struct FilterTransform {
  // Rows of a panel lie a page apart, where the processor does not prefetch by itself.
  static constexpr int64_t kAhead = 8;
  template <int n, int terms>
  static N2M_INLINE void Vector(const Float<L>* g, float* u, int64_t point_stride) {
    using P = Points<n>;
    constexpr int kPairs = P::kPairs;
    Store<L>(u, g[0]);
    Store<L>(u + (n - 1) * point_stride, g[terms - 1]);
#pragma GCC unroll 16
    for (int j = 0; j < kPairs; ++j) {
      Float<L> even = g[0], odd = Set<L>(0.0f);
      if constexpr (terms > 1) odd = g[1] * static_cast<float>(P::kPower[j][1]);
#pragma GCC unroll 16
      for (int k = 2; k < terms; ++k) {
        const float power = static_cast<float>(P::kPower[j][k]);
        if (k % 2 == 0) {
          even += g[k] * power;
        } else {
          odd += g[k] * power;
        }
      }
      Store<L>(u + (2 * j + 1) * point_stride, even + odd);
      Store<L>(u + (2 * j + 2) * point_stride, even - odd);
    }
  }
  template <int n, int terms, class T>
  static N2M_INLINE void Typed(const FilterArgs& a) {
    const T* base = static_cast<const T*>(a.from);
    for (int64_t r = 0; r < a.rows; ++r) {
      for (int64_t q = 0; q < 2 * a.panels; ++q) {
        const T* from = base + r * a.row_stride + q * L;
        float* u = a.u + q / 2 * a.panel_stride + (2 * r + q % 2) * L;
        const int64_t left = a.width - q * L;
        Float<L> g[terms];
#pragma GCC unroll 16
        for (int k = 0; k < terms; ++k) {
          __builtin_prefetch(from + k * a.term_stride + kAhead * a.row_stride, 0, 2);
          g[k] = left >= L ? Load<L>(from + k * a.term_stride)
                           : LoadPart<L>(from + k * a.term_stride, static_cast<int>(left));
        }
        Vector<n, terms>(g, u, a.point_stride);
      }
    }
  }
  template <int n, int terms>
  static N2M_INLINE void Terms(const FilterArgs& a) {
    if (a.dtype == DType::kBFloat16) {
      Typed<n, terms, BFloat16>(a);
    } else {
      Typed<n, terms, float>(a);
    }
  }
  template <int n>
  static N2M_INLINE void Points_(const FilterArgs& a) {
    N2M_FOR_SIZES(n, a.terms, Terms<n, size>(a))
  }
  static N2M_INLINE void Run(const FilterArgs& a) { N2M_FOR_POINTS(a.points, Points_<n>(a)) }
};
N2M_MULTI_ISA(FilterTransform, FilterArgs)

// y = A^T m for panels of 2 L columns: output i of tile t goes to c[(t outs + i) 2 L].
struct OutputArgs {
  int points, outs;
  const float* m;  // point p of tile t: m[p point_stride + t 2 L]
  int64_t point_stride, tiles;
  const float* init;  // 2 L floats added to each output; null: add to what c holds
  float* c;
};

template <int L>
struct OutputTransform {
  template <int n, int outs>
  static N2M_INLINE void Outs(const OutputArgs& a) {
    using P = Points<n>;
    constexpr int kPairs = P::kPairs;
    for (int64_t t = 0; t < a.tiles; ++t) {
      for (int j = 0; j < 2; ++j) {
        const float* m = a.m + (t * 2 + j) * L;
        float* c = a.c + (t * outs * 2 + j) * L;
        Float<L> y[outs];
#pragma GCC unroll 16
        for (int i = 0; i < outs; ++i) {
          y[i] = a.init != nullptr ? Load<L>(a.init + j * L) : Load<L>(c + i * 2 * L);
        }
        y[0] += Load<L>(m) * static_cast<float>(P::kInverse[0]);
        y[outs - 1] += Load<L>(m + (n - 1) * a.point_stride);
#pragma GCC unroll 16
        for (int k = 0; k < kPairs; ++k) {
          const Float<L> plus = Load<L>(m + (2 * k + 1) * a.point_stride);
          const Float<L> minus = Load<L>(m + (2 * k + 2) * a.point_stride);
          const Float<L> even = plus + minus, odd = plus - minus;
#pragma GCC unroll 16
          for (int i = 0; i < outs; ++i) {
            y[i] += (i % 2 == 0 ? even : odd) *
                    static_cast<float>(P::kPower[k][i] * P::kInverse[k + 1]);
          }
        }
#pragma GCC unroll 16
        for (int i = 0; i < outs; ++i) Store<L>(c + i * 2 * L, y[i]);
      }
    }
  }
  template <int n>
  static N2M_INLINE void Points_(const OutputArgs& a) {
    N2M_FOR_SIZES(n, a.outs, Outs<n, size>(a))
  }
  static N2M_INLINE void Run(const OutputArgs& a) { N2M_FOR_POINTS(a.points, Points_<n>(a)) }
};
N2M_MULTI_ISA(OutputTransform, OutputArgs)

// c[i][j] (+)= sum over rows r of a[r][i] b[r][j], all of 2 L columns: the products of a weight's
// gradient.
struct ProductArgs {
  const float *a, *b;  // (rows, 2 L)
  int64_t rows;
  float* c;  // (2 L, 2 L)
  bool add;
};

template <int L>
struct Product {
  static constexpr int kR = L == 16 ? 8 : 4;  // rows of a register block; divides 2 L
  static constexpr int64_t kAhead = 12;       // rows, to fetch
  static constexpr int64_t kRun = 96;         // rows of a and b that stay in L1 with c
  static N2M_INLINE void Run(const ProductArgs& s) {
    for (int64_t first = 0; first < s.rows; first += kRun) {
      const int64_t rows = s.rows - first < kRun ? s.rows - first : kRun;
      Rows(s.a + first * 2 * L, s.b + first * 2 * L, rows, s.add || first > 0, s.c);
    }
  }
  static N2M_INLINE void Rows(const float* a0, const float* b0, int64_t rows, bool add, float* c) {
    for (int64_t i = 0; i < 2 * L; i += kR) {
      Float<L> acc[kR][2] = {};
      const float *a = a0 + i, *b = b0;
      for (int64_t r = 0; r < rows; ++r, a += 2 * L, b += 2 * L) {
        __builtin_prefetch(a + kAhead * 2 * L);
        __builtin_prefetch(b + kAhead * 2 * L);
        __builtin_prefetch(b + kAhead * 2 * L + L);
        const Float<L> left = Load<L>(b), right = Load<L>(b + L);
        for (int k = 0; k < kR; ++k) {
          acc[k][0] += left * a[k];
          acc[k][1] += right * a[k];
        }
      }
      for (int k = 0; k < kR; ++k) {
        for (int j = 0; j < 2; ++j) {
          float* to = c + ((i + k) * 2 + j) * L;
          Store<L>(to, add ? Load<L>(to) + acc[k][j] : acc[k][j]);
        }
      }
    }
  }
};
N2M_MULTI_ISA(Product, ProductArgs)

}  // namespace n2m::conv1d_block
