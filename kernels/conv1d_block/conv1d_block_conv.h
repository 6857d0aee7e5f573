// A convolution, or the gradient of one, directly: a matrix product over tiles of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_job.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_window.h"
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
    few_ = tiling_.count <= kFewTiles;
    single_ = job.out_channels == 1 && !few_;
    for (int64_t o = 0; o < job.operands; ++o) {
      const Operand& op = job.operand[o];
      floats_[o] = RoundUp(tiling_.items * ItemFloats(op, tiling_.tile_rows), 16);
      if (few_) shared_[o] = arena.Take<float>(tiling_.count * floats_[o]);
    }
    if (few_) {
      splits_ =
          std::clamp<int64_t>(CeilDiv(kTasks, panels_), 1, std::max<int64_t>(tiling_.count, 1));
      const int64_t rows = tiling_.count * tiling_.items * tiling_.tile_rows;
      const int64_t most =
          std::min(kWideRows / std::max<int64_t>(rows, 1), panels_ / (2 * threads));
      wide_ = std::clamp<int64_t>(most, 1, kWide);
      groups_ = CeilDiv(panels_, wide_);
    } else {
      for (Phase& phase : job_.phases) PackOperand(job_.operand[0], phase, arena);
      if (job_.operands > 1) PackOperand(job_.operand[1], job_.second, arena);
    }
    slots_ = std::make_unique<Slots>(arena, threads, SlotFloats());
  }

  void Run(Executor& executor) {
    if (few_) {
      ParallelFor(executor, tiling_.count * kFillParts, 1, [this](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tile = i / kFillParts;
          float* const at[2] = {shared_[0] + tile * floats_[0], shared_[1] + tile * floats_[1]};
          Fill(tile, i % kFillParts, kFillParts, at);
        }
      });
      ParallelFor(executor, groups_ * splits_, 1, [this](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t split = i % splits_, group = i / splits_;
          const int64_t first = tiling_.count * split / splits_;
          float* const at[2] = {shared_[0] + first * floats_[0], shared_[1] + first * floats_[1]};
          const int64_t p = panels_ * group / groups_;
          Panels(first, tiling_.count * (split + 1) / splits_, p,
                 panels_ * (group + 1) / groups_ - p, at, lease.data());
        }
      });
      return;
    }
    PackAll(executor);
    ParallelFor(executor, tiling_.count, 1, [this](int64_t begin, int64_t end) {
      Slots::Lease lease(*slots_);
      for (int64_t i = begin; i < end; ++i) {
        float* slot = lease.data();
        float* const own[2] = {slot, slot + floats_[0]};
        Fill(i, 0, 1, own);
        for (int64_t p = 0; p < panels_; ++p) Panels(i, i + 1, p, 1, own, own[1] + floats_[1]);
      }
    });
  }

  double Total(int64_t item, int which, int64_t n) const { return output_.Total(item, which, n); }

 private:
  // Up to so many tiles, reading the weights is the limit. All tiles are then loaded first, and a
  // task packs the weights of a few panels, chunk by chunk, for all of them. With more tiles the
  // packed weights are shared instead, and a task takes a tile.
  static constexpr int64_t kFewTiles = 8;
  static constexpr int64_t kTasks = 16;     // of few tiles, at least
  static constexpr int64_t kFillParts = 8;  // of one tile, for more threads
  // Memory likes long runs: a task packs up to kWide panels together, as long as their results are
  // few and every thread has two tasks. No sum depends on it.
  static constexpr int64_t kWide = 8, kWideRows = 2048;
  // So few rows read a weight that packing it first would take longer than it saves.
  static constexpr int64_t kInPlaceRows = 128;

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
    const int64_t c = tiling_.items * tiling_.tile_rows * panel_;
    if (few_) return wide_ * (CeilDiv(tiling_.count, splits_) * c + 2 * kDepth * panel_);
    return floats_[0] + floats_[1] + c;
  }

  // Floats of one tap of one packed panel.
  int64_t TapFloats(const Operand& op) const {
    return single_ ? RoundUp(op.weight.in, panel_) : op.weight.in * panel_;
  }
  void PackOperand(const Operand& op, Phase& phase, Arena& arena) {
    phase.packed = arena.Take<float>(panels_ * phase.taps * TapFloats(op));
  }
  void PackAll(Executor& executor) {
    for (const Phase& phase : job_.phases) PackPhase(job_.operand[0], phase, executor);
    if (job_.operands > 1) PackPhase(job_.operand[1], job_.second, executor);
  }
  void PackPhase(const Operand& op, const Phase& phase, Executor& executor) {
    if (phase.taps == 0) return;
    float* packed = const_cast<float*>(phase.packed);
    ParallelFor(executor, panels_ * phase.taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tap = phase.tap_first + i % phase.taps * phase.tap_step;
        float* to = packed + i * TapFloats(op);
        if (single_) {
          PackSingle(op.weight, tap, to);
        } else {
          Pack(op.weight, tap, 0, op.weight.in, i / phase.taps * panel_, 1, to, panel_, 0);
        }
      }
    });
  }

  // Loads one of `parts` runs of rows of a tile.
  void Fill(int64_t index, int64_t run, int64_t parts, float* const* buffers) {
    const Tile tile = TileAt(tiling_, index);
    for (int64_t o = 0; o < job_.operands; ++o) {
      const Operand& op = job_.operand[o];
      const int64_t item_floats = ItemFloats(op, tile.rows);
      const int64_t stride = TileStride(op.source.channels), rows = item_floats / stride;
      const int64_t begin = rows * run / parts, end = rows * (run + 1) / parts;
      for (int64_t i = 0; i < tile.items; ++i) {
        Fill_Run(op.source.Rows(tile.item + i, tile.row * op.step + op.base + begin, end - begin, 0,
                                op.source.channels, buffers[o] + i * item_floats + begin * stride,
                                stride));
      }
    }
  }

  // `panels` panels from p of the tiles [begin, end), the first of which is where the buffers
  // begin.
  void Panels(int64_t begin, int64_t end, int64_t p, int64_t panels, float* const* buffers,
              float* slot) {
    if (begin == end) return;
    const int64_t tile_floats = tiling_.items * tiling_.tile_rows * panel_;
    const Range range = {begin, end, p, panels, (end - begin) * tile_floats};
    float* c = slot;
    float* fresh = slot + panels * range.panel_floats;
    const auto part = [this](const Tile& tile) { return tile.row / tiling_.tile_rows; };
    // Calls body(panel, tile, the tile's rows in c).
    const auto each = [&](const auto& body) {
      for (int64_t q = 0; q < panels; ++q) {
        for (int64_t t = begin; t < end; ++t) {
          body(p + q, TileAt(tiling_, t), c + q * range.panel_floats + (t - begin) * tile_floats);
        }
      }
    };
    each([&](int64_t panel, const Tile& tile, const float*) {
      for (int64_t i = 0; i < tile.items; ++i) output_.Clear(tile.item + i, part(tile), panel);
    });
    for (const Phase& phase : job_.phases) {
      Product(job_.operand[0], phase, range, buffers[0], floats_[0], output_.Start(p), c, fresh);
      if (job_.operands > 1) {
        Product(job_.operand[1], job_.second, range, buffers[1], floats_[1], nullptr, c, fresh);
      }
      each([&](int64_t panel, const Tile& tile, const float* rows) {
        for (int64_t i = 0; i < tile.items; ++i) {
          output_.Finish(phase, tile.item + i, part(tile), tile.row, tile.rows, panel,
                         rows + i * tile.rows * panel_);
        }
      });
    }
  }

  struct Range {
    int64_t begin, end;    // tiles
    int64_t p, panels;     // and panels of columns
    int64_t panel_floats;  // from one panel's results to the next's
  };

  static int64_t TapOf(const Phase& phase, int64_t k) {
    return phase.tap_first + k * phase.tap_step;
  }
  // Whether the product may read the weights where they lie: contiguous, in whole panels.
  bool InPlace(const WeightView& w) const { return w.out_stride == 1 && w.out % panel_ == 0; }
  // The weights of a range that follow the chunk at tap k, channel i, in rows that are contiguous
  // in memory; `count` is what each panel's product should fetch of them.
  Ahead NextChunk(const Operand& op, const Phase& phase, const Range& range, int64_t k, int64_t i,
                  int64_t width) const {
    const WeightView& w = op.weight;
    i += width;
    if (i >= w.in) {
      i = 0;
      if (++k == phase.taps) return {};
    }
    const int64_t columns = range.panels * panel_, ins = std::min(width, w.in - i);
    const bool along_out = w.out_stride == 1;
    Ahead ahead;
    ahead.at = reinterpret_cast<uintptr_t>(w.At(TapOf(phase, k), i, range.p * panel_));
    ahead.lines = CeilDiv((along_out ? columns : ins) * ElementBytes(w.dtype), kLine);
    ahead.stride = (along_out ? w.in_stride : w.out_stride) * ElementBytes(w.dtype);
    ahead.count = CeilDiv(ahead.lines * (along_out ? ins : columns), range.panels);
    return ahead;
  }

  // The chunk that follows one of `floats` floats in packed panels.
  static Ahead NextPacked(const void* chunk, int64_t floats) {
    Ahead ahead;
    ahead.at = reinterpret_cast<uintptr_t>(chunk) + static_cast<uintptr_t>(4 * floats);
    ahead.lines = ahead.count = 4 * floats / kLine;
    return ahead;
  }

  // c (+)= the operand's rows times a range's panels, in chunks of the reduction whose weights fit
  // L1, a panel. `init` has a start for every column.
  void Product(const Operand& op, const Phase& phase, const Range& range, const float* buffer,
               int64_t tile_floats, const float* init, float* c, float* fresh) {
    const int64_t stride = TileStride(op.source.channels), in = op.weight.in;
    WindowArgs a = {};
    a.row_stride = stride * op.step;
    a.tap_stride = stride;
    Ahead ahead;
    const auto multiply = [&](int64_t offset, int64_t q) {
      a.init = init == nullptr ? nullptr : init + q * panel_;
      for (int64_t t = range.begin; t < range.end; ++t) {
        const Tile tile = TileAt(tiling_, t);
        a.ahead = t == range.begin ? ahead : Ahead();
        a.items = tile.items;
        a.item_stride = ItemFloats(op, tile.rows);
        a.rows = tile.rows;
        a.a = buffer + (t - range.begin) * tile_floats + offset;
        a.c = c + q * range.panel_floats +
              (t - range.begin) * tiling_.items * tiling_.tile_rows * panel_;
        Window_Run(a);
      }
    };
    if (phase.taps == 0) {
      for (int64_t q = 0; q < range.panels && init != nullptr; ++q) multiply(0, q);
      return;
    }
    if (single_) {
      a.single = true;
      a.taps = phase.taps;
      a.width = in;
      a.b = phase.packed;
      return multiply(phase.shift * stride, 0);
    }
    // Whole taps while they are narrow, else equal parts of one.
    const bool narrow = in <= kDepth + kDepth / 4;
    const bool fresh_panels = phase.packed == nullptr;
    const int64_t rows = (range.end - range.begin) * tiling_.items * tiling_.tile_rows;
    const bool in_place = fresh_panels && !narrow && rows <= kInPlaceRows && InPlace(op.weight);
    const int64_t parts = narrow ? 1 : CeilDiv(in, kDepth);
    const int64_t width = narrow ? in : RoundUp(CeilDiv(in, parts), 8);
    const int64_t taps = narrow ? std::max<int64_t>(kDepth / in, 1) : 1;
    for (int64_t k = 0; k < phase.taps; k += taps) {
      for (int64_t i = 0; i < in; i += width) {
        a.taps = std::min(taps, phase.taps - k);
        a.width = std::min(width, in - i);
        const int64_t floats = a.taps * a.width * panel_;
        for (int64_t t = 0; t < a.taps && fresh_panels && !in_place; ++t) {
          Pack(op.weight, TapOf(phase, k + t), i, a.width, range.p * panel_, range.panels,
               fresh + t * a.width * panel_, panel_, floats);
        }
        if (fresh_panels && !narrow) ahead = NextChunk(op, phase, range, k, i, width);
        for (int64_t q = 0; q < range.panels; ++q) {
          if (in_place) {
            a.b = op.weight.At(TapOf(phase, k), i, (range.p + q) * panel_);
            a.b_dtype = op.weight.dtype;
            a.b_stride = op.weight.in_stride;
          } else {
            a.b = phase.packed != nullptr
                      ? phase.packed + (((range.p + q) * phase.taps + k) * in + i) * panel_
                      : fresh + q * floats;
          }
          if (!fresh_panels && !narrow) {
            ahead = NextPacked(a.b, floats);
          } else {
            ahead.first = q * ahead.count;
          }
          multiply((phase.shift + k) * stride + i, q);
        }
        init = nullptr;
      }
    }
  }

  ConvJob job_;
  Tiling tiling_;
  int64_t panel_, panels_ = 0;
  bool few_ = false;
  bool single_ = false;                    // one output, of many tiles
  int64_t splits_ = 1;                     // of few tiles,
  int64_t wide_ = 1, groups_ = 0;          // whose panels are taken in groups of at most wide_
  int64_t floats_[2] = {0, 0};             // of each operand's tile
  float* shared_[2] = {nullptr, nullptr};  // all tiles, when they are few
  Output output_;
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
