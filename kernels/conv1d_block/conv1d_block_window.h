// The product of conv1d_block, once for every instruction set: a tile of rows times panels of
// weights.
//
// The left operand is the tile read through a sliding window: nothing is copied once a tap. The
// product runs in blocks of kRows<L> rows by 2 L columns held in registers. The right operand is
// packed in panels of 2 L columns or, where few rows read it, lies in place.
#pragma once

#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_simd.h"

namespace n2m::conv1d_block {

constexpr int64_t kLine = 64;  // bytes of a cache line
constexpr int64_t kLineFloats = kLine / 4;

// Lines of memory to fetch while a product runs, because a later one reads them: rows of `lines`
// lines, `stride` bytes apart, counted row by row. Where reading the weights is the limit, memory
// must not wait for the arithmetic.
struct Ahead {
  uintptr_t at = 0;                   // address of the first row; 0: nothing
  int64_t lines = 1, stride = kLine;  // of a row
  int64_t first = 0, count = 0;       // the lines to fetch
};

struct WindowArgs {
  const float*
      a;  // row r, tap k, channel i of item b: a[b item_stride + r row_stride + k tap_stride + i]
  int64_t items, item_stride;
  int64_t rows, row_stride;
  int64_t taps, tap_stride, width;
  const void* b;      // (taps, width, 2 L)
  DType b_dtype;      // bfloat16 only where it lies in place
  int64_t b_stride;   // elements from one of its rows to the next; 0: 2 L
  const float* init;  // 2 L floats to start from; null: add to what c holds
  float* c;           // (items, rows, 2 L)
  Ahead ahead;
  bool single;  // of one output: b is (taps, width rounded up to 2 L), c's column 0 is written
};

template <int L>
struct Window {
  // The lines that one block of rows fetches, so many a step.
  struct Fetch {
    uintptr_t at = 0;
    int64_t in_row = 0, a_step = 0;
    // From the line of this number.
    N2M_INLINE void Start(const Ahead& a, int64_t line) {
      in_row = line % a.lines;
      at = a.at + static_cast<uintptr_t>(line / a.lines * a.stride + in_row * kLine);
    }
    N2M_INLINE void Step(const Ahead& a) {
      for (int64_t n = 0; n < a_step; ++n) {
        __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);  // no further than L2
        at += kLine;
        if (++in_row == a.lines) {
          at += static_cast<uintptr_t>(a.stride - a.lines * kLine);
          in_row = 0;
        }
      }
    }
  };

  template <int R, bool kFetch, bool kInPlace, class W>
  static N2M_INLINE void Block(const WindowArgs& s, const float* a, float* c, int64_t step,
                               Fetch fetch) {
    Float<L> acc[R][2] = {};  // from zero and added at the end: short sums lose fewer bits
    const W* b = static_cast<const W*>(s.b);
    const int64_t row_stride = s.row_stride, width = s.width;
    const int64_t b_stride = kInPlace ? s.b_stride : 2 * L;
    // The rows that follow, a line a step: the processor by itself brings them too late. They are
    // taken one after the other, or where chunks are a part of a row a line of each, then the next.
    const char* next = reinterpret_cast<const char*>(a + R * row_stride);
    // A pointer for every three rows, since an address may have a stride once or twice. Left to
    // itself GCC keeps a pointer a row, more than there are registers; the empty statement hides
    // from it that they move together.
    constexpr int kGroup = 3, kGroups = (R + kGroup - 1) / kGroup;
    for (int64_t k = 0; k < s.taps; ++k) {
      const float* at[kGroups];
      for (int g = 0; g < kGroups; ++g) at[g] = a + k * s.tap_stride + g * kGroup * row_stride;
      for (const float* stop = at[0] + width; at[0] != stop;) {
        const float* end = stop;
        if constexpr (kFetch) {
          if (stop - at[0] > kLineFloats) end = at[0] + kLineFloats;
          next = reinterpret_cast<const char*>(at[0] + R * row_stride);
        }
        for (; at[0] != end; b += b_stride) {
          if constexpr (kFetch) fetch.Step(s.ahead);
          if constexpr (!kInPlace) {
            __builtin_prefetch(next);
            next += kFetch ? 4 * row_stride : step;
          }
          const Float<L> b0 = Load<L>(b), b1 = Load<L>(b + L);
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r) {
            const float v = at[r / kGroup][r % kGroup * row_stride];
            acc[r][0] += b0 * v;
            acc[r][1] += b1 * v;
          }
#pragma GCC unroll 4
          for (int g = 0; g < kGroups; ++g) {
            ++at[g];
            __asm__("" : "+r"(at[g]));
          }
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      float* to = c + r * 2 * L;
      const float* from = s.init != nullptr ? s.init : to;
      Store<L>(to, Load<L>(from) + acc[r][0]);
      Store<L>(to + L, Load<L>(from + L) + acc[r][1]);
    }
  }
  // The last R rows or fewer, at `a` and `c`.
  template <int R, bool kFetch, bool kInPlace, class W>
  static N2M_INLINE void Rest(const WindowArgs& s, int64_t rows, const float* a, float* c,
                              int64_t step, Fetch fetch) {
    if constexpr (R > 0) {
      if (rows == R) return Block<R, kFetch, kInPlace, W>(s, a, c, step, fetch);
      Rest<R - 1, kFetch, kInPlace, W>(s, rows, a, c, step, fetch);
    }
  }
  // One output fills one column of a panel. It is a dot product instead, along the channels: L rows
  // at a time, whose lanes are turned and added at the end. The last rows may be fewer.
  static N2M_INLINE void Dots(const WindowArgs& s, int64_t rows, const float* a, float* c) {
    Float<L> acc[L] = {};
    const float* b = static_cast<const float*>(s.b);
    const int64_t padded = (s.width + 2 * L - 1) / (2 * L) * (2 * L), last = rows - 1;
    for (int64_t k = 0; k < s.taps; ++k) {
      const float* ak = a + k * s.tap_stride;
      for (int64_t i = 0; i < s.width; i += L) {
        const Float<L> w = Load<L>(b + k * padded + i);
#pragma GCC unroll 16
        for (int r = 0; r < L; ++r) {
          acc[r] += w * Load<L>(ak + (r < last ? r : last) * s.row_stride + i);
        }
      }
    }
    simd::Transpose<L>(acc);
    for (int half = L / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) acc[i] += acc[i + half];
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* to = c + r * 2 * L;
      *to = acc[0][r] + (s.init != nullptr ? *s.init : *to);
    }
  }
  static N2M_INLINE void Single(const WindowArgs& s) {
    for (int64_t item = 0; item < s.items; ++item) {
      for (int64_t r = 0; r < s.rows; r += L) {
        Dots(s, s.rows - r < L ? s.rows - r : L, s.a + item * s.item_stride + r * s.row_stride,
             s.c + (item * s.rows + r) * 2 * L);
      }
    }
  }
  template <bool kFetch, bool kInPlace, class W>
  static N2M_INLINE void Items(const WindowArgs& s) {
    constexpr int kR = kRows<L>;
    const int64_t steps = s.taps * s.width;
    const int64_t step = steps > 0 ? kR * s.row_stride * 4 / steps : 0;  // bytes of the next rows
    const int64_t blocks = s.items * ((s.rows + kR - 1) / kR);
    // Every block fetches its share; a line or more a step, until there are none left.
    const int64_t a_step = kFetch ? (s.ahead.count + blocks * steps - 1) / (blocks * steps) : 0;
    int64_t done = 0;
    for (int64_t item = 0; item < s.items; ++item) {
      const float* a = s.a + item * s.item_stride;
      float* c = s.c + item * s.rows * 2 * L;
      for (int64_t r = 0; r < s.rows; r += kR, done += a_step * steps) {
        Fetch fetch;
        if (kFetch && done < s.ahead.count) {
          fetch.Start(s.ahead, s.ahead.first + done);
          fetch.a_step = a_step;
        }
        const float* from = a + r * s.row_stride;
        float* to = c + r * 2 * L;
        if (s.rows - r >= kR) {
          Block<kR, kFetch, kInPlace, W>(s, from, to, step, fetch);
        } else {
          Rest<kR - 1, kFetch, kInPlace, W>(s, s.rows - r, from, to, step, fetch);
        }
      }
    }
  }
  static N2M_INLINE void Run(const WindowArgs& s) {
    if (s.single) {
      Single(s);
    } else if (s.b_dtype == DType::kBFloat16) {
      Items<true, true, BFloat16>(s);
    } else if (s.b_stride > 0) {
      Items<true, true, float>(s);
    } else if (s.ahead.at != 0) {
      Items<true, false, float>(s);
    } else {
      Items<false, false, float>(s);
    }
  }
};
N2M_MULTI_ISA(Window, WindowArgs)

}  // namespace n2m::conv1d_block
