// Weights cut out of their array, as the products want them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"

namespace n2m::conv1d_block {

// A weight seen as a (taps, in, out) array, of which in or out is contiguous.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t in = 0, out = 0;
  int64_t tap_stride = 0, in_stride = 0, out_stride = 0;

  const char* At(int64_t tap, int64_t i, int64_t n) const {
    return static_cast<const char*>(data) +
           (tap * tap_stride + i * in_stride + n * out_stride) * ElementBytes(dtype);
  }
};

struct PackArgs {
  const void* from;
  DType dtype;
  int64_t rows, panels;               // of `to`; a panel is 2 L columns
  int64_t valid;                      // columns that exist; the others become zeros
  int64_t row_stride, column_stride;  // of `from`; one of them is 1
  float* to;                          // row r of panel q: to + q to_panel + r to_row
  int64_t to_row, to_panel;
};

template <int L>
struct PackPanel {
  static N2M_INLINE float* At(const PackArgs& a, int64_t row, int64_t column) {
    return a.to + column / (2 * L) * a.to_panel + row * a.to_row + column % (2 * L);
  }
  // Block of L rows by L columns whose columns are contiguous in `from`.
  template <class T>
  static N2M_INLINE void Turn(const PackArgs& a, int64_t row, int64_t column) {
    const T* from = static_cast<const T*>(a.from) + column * a.column_stride + row;
    const int64_t rows = a.rows - row;
    Float<L> block[L];
    for (int j = 0; j < L; ++j) {
      const T* at = from + j * a.column_stride;
      __builtin_prefetch(at + 4 * L);  // rows lie apart: the processor does not see the runs
      block[j] = column + j >= a.valid ? Set<L>(0.0f)
                 : rows >= L           ? Load<L>(at)
                                       : LoadPart<L>(at, static_cast<int>(rows));
    }
    simd::Transpose<L>(block);
    for (int i = 0; i < L; ++i) {
      if (i < rows) Store<L>(At(a, row + i, column), block[i]);
    }
  }
  template <class T>
  static N2M_INLINE void Typed(const PackArgs& a) {
    const int64_t columns = a.panels * 2 * L;
    if (a.column_stride == 1) {
      const T* from = static_cast<const T*>(a.from);
      for (int64_t i = 0; i < a.rows; ++i) {
        for (int64_t j = 0; j < columns; j += L) {
          const int64_t left = a.valid - j;
          const T* at = from + i * a.row_stride + j;
          __builtin_prefetch(at + 8 * a.row_stride);
          Store<L>(At(a, i, j), left >= L ? Load<L>(at) : LoadPart<L>(at, static_cast<int>(left)));
        }
      }
      return;
    }
    for (int64_t j = 0; j < columns; j += L) {
      for (int64_t i = 0; i < a.rows; i += L) Turn<T>(a, i, j);
    }
  }
  static N2M_INLINE void Run(const PackArgs& a) {
    if (a.dtype == DType::kBFloat16) {
      Typed<BFloat16>(a);
    } else {
      Typed<float>(a);
    }
  }
};
N2M_MULTI_ISA(PackPanel, PackArgs)

// weight[tap, in0 : in0 + ins, out0 : ] as `panels` panels, zeros beyond the last output.
inline void Pack(const WeightView& w, int64_t tap, int64_t in0, int64_t ins, int64_t out0,
                 int64_t panels, float* to, int64_t to_row, int64_t to_panel) {
  PackPanel_Run({w.At(tap, in0, out0), w.dtype, ins, panels,
                 std::min(panels * PanelWidth(), w.out - out0), w.in_stride, w.out_stride, to,
                 to_row, to_panel});
}

// weight[tap, :, 0] of a weight of one output as a row, zeros up to whole panels.
inline void PackSingle(const WeightView& w, int64_t tap, float* to) {
  const int64_t panel = PanelWidth();
  PackPanel_Run(
      {w.At(tap, 0, 0), w.dtype, 1, (w.in + panel - 1) / panel, w.in, 0, 1, to, 0, panel});
}

}  // namespace n2m::conv1d_block
