// A convolution, or the gradient of one, directly: a matrix product over tiles of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_job.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "noise2music/executor.h"

namespace n2m::conv1d_block {

class Conv {
 public:
  Conv(const ConvJob& job, Arena& arena, int threads)
      : job_(job),
        tiling_(MakeTiling(job)),
        panel_(PanelWidth()),
        output_(job_, tiling_.per_item, arena) {
    panels_ = CeilDiv(job.out_channels, panel_);
    // Few tiles: share each among several tasks, by columns. Each loads the tile anew, so keep
    // columns wide.
    columns_ = std::clamp<int64_t>(CeilDiv(16, std::max<int64_t>(tiling_.count, 1)), 1,
                                   CeilDiv(panels_ * panel_, 128));
    if (tiling_.count > kPackAsYouGo) {
      for (Phase& phase : job_.phases) PackOperand(job_.operand[0], phase, arena);
      if (job_.operands > 1) PackOperand(job_.operand[1], job_.second, arena);
    }
    slots_ = std::make_unique<Slots>(arena, threads, SlotFloats());
  }

  void Run(Executor& executor) {
    PackAll(executor);
    ParallelFor(executor, tiling_.count * columns_, 1, [this](int64_t begin, int64_t end) {
      Slots::Lease lease(*slots_);
      for (int64_t i = begin; i < end; ++i) Unit(i / columns_, i % columns_, lease.data());
    });
  }

  double Total(int64_t item, int which, int64_t n) const { return output_.Total(item, which, n); }

 private:
  static constexpr int64_t kPackAsYouGo =
      2;  // up to so many tiles, packing all weights first costs more

  static Tiling MakeTiling(const ConvJob& job) {
    int64_t row = 0, halo = 0;
    for (int64_t o = 0; o < job.operands; ++o) {
      const Operand& op = job.operand[o];
      const int64_t stride = TileStride(op.source.channels);
      row += stride * op.step;
      halo += stride * std::max<int64_t>(op.span - op.step, 0);
    }
    return Tiling::Make(job.batch, job.rows, row, halo, kMaxTileRows);
  }

  int64_t Columns() const { return panels_ * panel_; }
  static int64_t ItemFloats(const Operand& op, int64_t rows) {
    return ((rows - 1) * op.step + op.span) * TileStride(op.source.channels);
  }
  int64_t SlotFloats() const {
    if (tiling_.count == 0) return 0;
    int64_t floats = 0;
    for (int64_t o = 0; o < job_.operands; ++o) {
      floats += RoundUp(tiling_.items * ItemFloats(job_.operand[o], tiling_.tile_rows), 16);
    }
    return floats + tiling_.items * tiling_.tile_rows * panel_ + 2 * kDepth * panel_;
  }

  void PackOperand(const Operand& op, Phase& phase, Arena& arena) {
    phase.packed = arena.Take<float>(phase.taps * op.weight.in * Columns());
  }
  void PackAll(Executor& executor) {
    if (tiling_.count <= kPackAsYouGo) return;
    for (const Phase& phase : job_.phases) PackPhase(job_.operand[0], phase, executor);
    if (job_.operands > 1) PackPhase(job_.operand[1], job_.second, executor);
  }
  void PackPhase(const Operand& op, const Phase& phase, Executor& executor) {
    if (phase.taps == 0) return;
    float* packed = const_cast<float*>(phase.packed);
    ParallelFor(executor, panels_ * phase.taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Pack(op.weight, phase.tap_first + i % phase.taps * phase.tap_step, 0, op.weight.in,
             i / phase.taps * panel_, panel_, packed + i * op.weight.in * panel_);
      }
    });
  }

  void Unit(int64_t index, int64_t column, float* slot) {
    const Tile tile = TileAt(tiling_, index);
    float* buffers[2] = {nullptr, nullptr};
    for (int64_t o = 0; o < job_.operands; ++o) {
      const Operand& op = job_.operand[o];
      const int64_t item_floats = ItemFloats(op, tile.rows),
                    stride = TileStride(op.source.channels);
      buffers[o] = slot;
      for (int64_t i = 0; i < tile.items; ++i) {
        Fill_Run(op.source.Rows(tile.item + i, tile.row * op.step + op.base, item_floats / stride,
                                0, op.source.channels, slot + i * item_floats, stride));
      }
      slot += RoundUp(tile.items * item_floats, 16);
    }
    float* c = slot;
    float* fresh = slot + tile.items * tile.rows * panel_;
    const int64_t end = panels_ * (column + 1) / columns_;
    for (int64_t p = panels_ * column / columns_; p < end; ++p) {
      const int64_t part = tile.row / std::max<int64_t>(tiling_.tile_rows, 1);
      for (int64_t i = 0; i < tile.items; ++i) output_.Clear(tile.item + i, part, p);
      for (const Phase& phase : job_.phases) {
        Product(job_.operand[0], phase, tile, p, buffers[0], output_.Start(p), c, fresh);
        if (job_.operands > 1) {
          Product(job_.operand[1], job_.second, tile, p, buffers[1], nullptr, c, fresh);
        }
        for (int64_t i = 0; i < tile.items; ++i) {
          output_.Finish(phase, tile.item + i, part, tile.row, tile.rows, p,
                         c + i * tile.rows * panel_);
        }
      }
    }
  }

  // c (+)= the operand's rows times panel p, in chunks of the reduction whose weights fit L1.
  void Product(const Operand& op, const Phase& phase, const Tile& tile, int64_t p,
               const float* buffer, const float* init, float* c, float* fresh) {
    const int64_t stride = TileStride(op.source.channels), in = op.weight.in;
    WindowArgs a = {};
    a.items = tile.items;
    a.item_stride = ItemFloats(op, tile.rows);
    a.rows = tile.rows;
    a.row_stride = stride * op.step;
    a.tap_stride = stride;
    a.init = init;
    a.c = c;
    if (phase.taps == 0) {
      if (init != nullptr) Window_Run(a);
      return;
    }
    // Whole taps while they are narrow, else equal parts of one.
    const bool narrow = in <= kDepth + kDepth / 4;
    const int64_t parts = narrow ? 1 : CeilDiv(in, kDepth);
    const int64_t width = narrow ? in : RoundUp(CeilDiv(in, parts), 8);
    const int64_t taps = narrow ? std::max<int64_t>(kDepth / in, 1) : 1;
    for (int64_t k = 0; k < phase.taps; k += taps) {
      for (int64_t i = 0; i < in; i += width) {
        a.a = buffer + (phase.shift + k) * stride + i;
        a.taps = std::min(taps, phase.taps - k);
        a.width = std::min(width, in - i);
        if (phase.packed != nullptr) {
          a.b = phase.packed + ((p * phase.taps + k) * in + i) * panel_;
        } else {
          for (int64_t t = 0; t < a.taps; ++t) {
            Pack(op.weight, phase.tap_first + (k + t) * phase.tap_step, i, a.width, p * panel_,
                 panel_, fresh + t * a.width * panel_);
          }
          a.b = fresh;
        }
        Window_Run(a);
        a.init = nullptr;
      }
    }
  }

  ConvJob job_;
  Tiling tiling_;
  int64_t panel_, panels_ = 0, columns_ = 1;
  Output output_;
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
