// Rows of a source and steps of a weight as the matrix tiles of AMX take them: in pieces of
// bfloat16 (conv1d_block_amx_product.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_amx_product.h"
#include "kernels/conv1d_block/conv1d_block_pack.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"

namespace n2m::conv1d_block {

inline int AmxPieces(DType dtype) { return dtype == DType::kBFloat16 ? 1 : 2; }

// Numbers from one row of a piece to the next: whole steps, and not a power of two.
inline int64_t AmxStride(int64_t channels) { return RoundUp(channels, kAmxDepth) + kAmxDepth; }

constexpr int64_t kAmxFillRows = 4;  // loaded at a time, then rounded: they stay in L1

// Rows [row0, row0 + rows) of a clip; piece p of row r goes to to[p] + r stride. `buffer` holds
// kAmxFillRows rows of `stride` floats.
inline void AmxFill(const Source& source, int64_t item, int64_t row0, int64_t rows,
                    uint16_t* const* to, int64_t stride, float* buffer) {
  for (int64_t r = 0; r < rows; r += kAmxFillRows) {
    const int64_t n = std::min(kAmxFillRows, rows - r);
    Fill_Run(source.Rows(item, row0 + r, n, 0, source.channels, buffer, stride));
    AmxSplitArgs split = {};
    split.native = RoundsToBFloat16();
    split.from = buffer;
    split.rows = n;
    split.from_stride = split.to_stride = stride;
    split.width = source.channels;
    split.to_width = RoundUp(source.channels, kAmxDepth);
    split.pieces = AmxPieces(source.dtype);
    for (int p = 0; p < split.pieces; ++p) split.to[p] = to[p] + r * stride;
    AmxSplit_Run(split);
  }
}

// Channels [in, in + 32) of a tap, for `panels` panels from p: panel q at to + q to_panel.
inline void AmxPackStep(const WeightView& w, int64_t tap, int64_t in, int64_t p, int64_t panels,
                        uint16_t* to, int64_t to_panel) {
  const int64_t out = p * kAmxPanel;
  AmxPackArgs a = {};
  a.native = RoundsToBFloat16();
  a.from = w.At(tap, in, out);
  a.dtype = w.dtype;
  a.panels = panels;
  a.ins = std::min(kAmxDepth, w.in - in);
  a.outs = std::min(panels * kAmxPanel, w.out - out);
  a.in_stride = w.in_stride;
  a.out_stride = w.out_stride;
  a.pieces = AmxPieces(w.dtype);
  a.to = to;
  a.to_panel = to_panel;
  AmxPack_Run(a);
}

}  // namespace n2m::conv1d_block
