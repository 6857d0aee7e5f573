// The gradient of a weight: dweight[k][c][d] = sum over clips and rows t of
// h[t * stride + k - pad][c] dy[t][d], a matrix product whose reduction runs over time.
//
// The result is cut in blocks of channels c by channels d, small enough that a tile of h and of dy
// for one block fits L2. A task owns a block and adds tile after tile to it in order. Where that
// gives too few tasks, the tiles are also split in a few runs, whose results are added in order at
// the end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "noise2music/executor.h"

namespace n2m::conv1d_block {

struct WeightJob {
  int64_t batch = 0, rows = 0;  // rows of dy
  int64_t taps = 1, step = 1, base = 0;
  Source h, dy;
  float* dweight = nullptr;  // (taps, channels of h, channels of dy)
  float* dbias = nullptr;    // (channels of dy), or null
};

class WeightGradient {
 public:
  WeightGradient(const WeightJob& job, Arena& arena, int threads)
      : job_(job), high_(BlockRows()), wide_(PanelWidth()) {
    strips_ = CeilDiv(job.h.channels, high_);
    panels_ = CeilDiv(job.dy.channels, wide_);
    down_ = CeilDiv(strips_ * high_, 72);
    across_ = CeilDiv(panels_ * wide_, 128);
    block_strips_ = CeilDiv(strips_, down_);
    block_panels_ = CeilDiv(panels_, across_);
    const int64_t height = block_strips_ * high_;
    tiling_ = Tiling::Make(job.batch, job.rows, height * job.step + block_panels_ * wide_,
                           height * std::max<int64_t>(job.taps - job.step, 0), kDepth);
    const int64_t size = Size();
    const int64_t most = std::max<int64_t>(kPartialFloats / size, 1);
    runs_ = std::clamp<int64_t>(CeilDiv(16, down_ * across_), 1,
                                std::clamp<int64_t>(tiling_.count, 1, most));
    if (runs_ > 1) partial_ = arena.Take<float>(runs_ * size);
    totals_ = arena.Take<double>(runs_ * panels_ * wide_);
    slots_ = std::make_unique<Slots>(arena, threads, SlotFloats());
  }

  void Run(Executor& executor) {
    const int64_t size = Size();
    if (tiling_.count == 0) {
      std::fill(job_.dweight, job_.dweight + size, 0.0f);
      if (job_.dbias != nullptr) std::fill(job_.dbias, job_.dbias + job_.dy.channels, 0.0f);
      return;
    }
    const int64_t blocks = down_ * across_;
    ParallelFor(executor, blocks * runs_, 1, [this, blocks](int64_t begin, int64_t end) {
      Slots::Lease lease(*slots_);
      for (int64_t i = begin; i < end; ++i) {
        Unit(i / blocks, i % blocks / across_, i % across_, lease.data());
      }
    });
    if (runs_ > 1) {
      ParallelFor(executor, size, 16 << 10, [this, size](int64_t begin, int64_t end) {
        std::copy(partial_ + begin, partial_ + end, job_.dweight + begin);
        for (int64_t r = 1; r < runs_; ++r) {
          const float* from = partial_ + r * size;
          for (int64_t i = begin; i < end; ++i) job_.dweight[i] += from[i];
        }
      });
    }
    if (job_.dbias == nullptr) return;
    for (int64_t d = 0; d < job_.dy.channels; ++d) {
      double total = 0;
      for (int64_t r = 0; r < runs_; ++r) total += totals_[r * panels_ * wide_ + d];
      job_.dbias[d] = static_cast<float>(total);
    }
  }

 private:
  static constexpr int64_t kPartialFloats = 4 << 20;
  static constexpr int64_t kFillRows = 16;  // rows loaded at a time, then cut in strips

  int64_t Size() const { return job_.taps * job_.h.channels * job_.dy.channels; }
  int64_t RowsIn(int64_t rows) const { return (rows - 1) * job_.step + job_.taps; }
  int64_t SlotFloats() const {
    if (tiling_.count == 0) return 0;
    const int64_t height = block_strips_ * high_, width = block_panels_ * wide_;
    return tiling_.items * (RowsIn(tiling_.tile_rows) * height + tiling_.tile_rows * width) +
           kFillRows * RoundUp(std::max(height, width), 16) + 64;
  }

  // One block of the result over the tiles of one run.
  void Unit(int64_t run, int64_t down, int64_t across, float* slot) {
    const int64_t strip0 = strips_ * down / down_, strips = strips_ * (down + 1) / down_ - strip0;
    const int64_t panel0 = panels_ * across / across_;
    const int64_t panels = panels_ * (across + 1) / across_ - panel0;
    const int64_t c0 = strip0 * high_, d0 = panel0 * wide_;
    const int64_t channels = job_.h.channels, outs = job_.dy.channels;
    const int64_t cs = std::min(strips * high_, channels - c0),
                  ds = std::min(panels * wide_, outs - d0);
    float* result = (runs_ > 1 ? partial_ + run * Size() : job_.dweight) + c0 * outs + d0;
    double* totals =
        job_.dbias != nullptr && down == 0 ? totals_ + run * panels_ * wide_ + d0 : nullptr;
    if (totals != nullptr) std::fill(totals, totals + panels * wide_, 0.0);
    const int64_t begin = tiling_.count * run / runs_, end = tiling_.count * (run + 1) / runs_;
    for (int64_t index = begin; index < end; ++index) {
      const Tile tile = TileAt(tiling_, index);
      const int64_t rows_in = RowsIn(tile.rows);
      float* h = slot;
      float* dy = h + tile.items * rows_in * strips * high_;
      float* rows = dy + tile.items * tile.rows * panels * wide_;
      for (int64_t i = 0; i < tile.items; ++i) {
        Cut(job_.h, tile.item + i, tile.row * job_.step + job_.base, rows_in, c0, cs, high_, strips,
            h + i * rows_in * high_, tile.items * rows_in * high_, rows);
        Cut(job_.dy, tile.item + i, tile.row, tile.rows, d0, ds, wide_, panels,
            dy + i * tile.rows * wide_, tile.items * tile.rows * wide_, rows);
      }
      for (int64_t p = 0; p < panels; ++p) {
        const float* panel = dy + p * tile.items * tile.rows * wide_;
        if (totals != nullptr) {
          Totals_Run(
              {panel, DType::kFloat32, tile.items * tile.rows, wide_, totals + p * wide_, nullptr});
        }
        for (int64_t c = 0; c < strips; ++c) {
          OuterArgs o = {};
          o.h = h + c * tile.items * rows_in * high_;
          o.h_item = rows_in * high_;
          o.step = job_.step;
          o.dy = panel;
          o.items = tile.items;
          o.rows = tile.rows;
          o.taps = job_.taps;
          o.dst = result + c * high_ * outs + p * wide_;
          o.tap_stride = channels * outs;
          o.row_stride = outs;
          o.height = std::min(high_, cs - c * high_);
          o.width = std::min(wide_, ds - p * wide_);
          o.add = index > begin;
          Outer_Run(o);
        }
      }
    }
  }

  // Loads rows [row0, row0 + rows) of `width` channels and cuts them in strips of `strip` channels,
  // each contiguous in time; zeros beyond the last channel.
  static void Cut(const Source& source, int64_t item, int64_t row0, int64_t rows, int64_t first,
                  int64_t width, int64_t strip, int64_t strips, float* out, int64_t strip_floats,
                  float* buffer) {
    const int64_t stride = RoundUp(strips * strip, 16);
    for (int64_t r = 0; r < rows; r += kFillRows) {
      const int64_t n = std::min(kFillRows, rows - r);
      Fill_Run(source.Rows(item, row0 + r, n, first, width, buffer, stride));
      CutArgs a = {buffer, stride, n, width, strip, strips, out + r * strip, strip_floats};
      CutStrips_Run(a);
    }
  }

  WeightJob job_;
  int64_t high_, wide_;
  int64_t strips_ = 0, panels_ = 0;              // of the whole result
  int64_t down_ = 1, across_ = 1;                // blocks
  int64_t block_strips_ = 1, block_panels_ = 1;  // of a block, at most
  Tiling tiling_;
  int64_t runs_ = 1;
  float* partial_ = nullptr;
  double* totals_ = nullptr;
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
