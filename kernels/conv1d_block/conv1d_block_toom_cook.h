// A convolution of stride 1, or its gradient, by F(m, K): m rows at a time from n = m + K - 1
// products a channel instead of m K.
//
// Rows are cut in tiles of m. The tiles of all clips are taken in waves, and a wave in two steps:
//   1. every tile's n rows are loaded, normalised, swished and transformed: V, one matrix
//      (tiles x C) a point, shared by all threads and small enough for the last level of cache;
//   2. a task takes one panel of output channels: it transforms the panel's weights, chunk by chunk
//      of C, into U (held in L2), multiplies V U point by point, and transforms back.
// So the weights are read once a wave, and U never goes to memory. A wave has many tiles, so the
// transform of the weights costs a few per cent of the products (README).
//
// A tile's numbers depend on its own rows alone, and totals are gathered over parts of a clip that
// are cut by its length: a clip comes out the same in any batch and on any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_job.h"
#include "kernels/conv1d_block/conv1d_block_plan.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_toom_cook_simd.h"
#include "kernels/conv1d_block/conv1d_block_waves.h"
#include "kernels/conv1d_block/conv1d_block_window.h"
#include "noise2music/executor.h"

namespace n2m::conv1d_block {

class ToomCook {
 public:
  // The job has one phase and steps of one row.
  ToomCook(const ConvJob& job, const Form& form, Arena& arena, int threads)
      : job_(job),
        form_(form),
        waves_(job.batch, job.rows, form.outs, kWaveTiles),
        panel_(PanelWidth()),
        panels_(CeilDiv(job.out_channels, panel_)),
        output_(job_, waves_.clip_parts(), arena) {
    const int64_t channels = job.operand[0].source.channels;
    chunk_ = RoundUp(CeilDiv(channels, CeilDiv(channels, kChunk)), 16);
    chunks_ = CeilDiv(channels, chunk_);
    stride_ = TileStride(chunk_);
    wide_ = std::min<int64_t>(panels_, waves_.wave_tiles() <= kFewTiles ? kWide : 1);
    groups_ = CeilDiv(panels_, wide_);
    splits_ =
        std::clamp<int64_t>(CeilDiv(kTasks, groups_), 1, std::max<int64_t>(waves_.wave_parts(), 1));
    u_point_ = Apart(chunk_ * panel_);
    v_point_ = Apart(waves_.wave_tiles() * stride_);
    v_ = arena.Take<float>(chunks_ * form.points * v_point_);
    if (job.operands > 1) {
      residual_ = arena.Take<float>(waves_.wave_tiles() * form.outs * ResidualStride());
    }
    slots_ = std::make_unique<Slots>(arena, threads,
                                     std::max(LoadFloats(form, channels), MultiplyFloats()));
  }

  void Run(Executor& executor) {
    for (int64_t first = 0; first < waves_.parts(); first += waves_.wave_parts()) {
      const int64_t last = std::min(first + waves_.wave_parts(), waves_.parts());
      ParallelFor(executor, last - first, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) Load(first, first + i, lease.data());
      });
      ParallelFor(executor, groups_ * splits_, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t split = i % splits_, count = last - first;
          Multiply(first, first + count * split / splits_, first + count * (split + 1) / splits_,
                   i / splits_, lease.data());
        }
      });
    }
  }

  double Total(int64_t item, int which, int64_t n) const { return output_.Total(item, which, n); }

 private:
  static constexpr int64_t kChunk = 128;      // channels a chunk: a point's weights fit L1
  static constexpr int64_t kWaveTiles = 256;  // tiles of a wave, at most
  // Up to so many tiles, reading the weights is the limit: a task takes more columns, since memory
  // likes long runs.
  static constexpr int64_t kFewTiles = 64, kWide = 2;
  static constexpr int64_t kTasks = 8;  // of a wave's second step, at least

  int64_t Width(int64_t chunk) const {
    return std::min(chunk_, job_.operand[0].source.channels - chunk * chunk_);
  }
  int64_t ResidualStride() const { return TileStride(job_.operand[1].source.channels); }
  int64_t MultiplyFloats() const {
    const int64_t fc = job_.operands > 1 ? job_.operand[1].source.channels : 0;
    const int64_t staged = job_.operand[0].weight.out_stride == 1 ? 0 : form_.taps;
    return wide_ * form_.points * (u_point_ + Apart(waves_.wave_tiles() * panel_)) +
           panel_ * (staged * wide_ * chunk_ + waves_.part_tiles() * form_.outs + fc);
  }

  // V of one part, and its rows of the residual.
  void Load(int64_t wave, int64_t part, float* rows) {
    const int64_t item = waves_.Item(part), tiles = waves_.Tiles(part);
    const int64_t at = waves_.Between(wave, part);
    DataArgs to = {};
    to.v = v_ + at * stride_;
    to.block = chunk_;
    to.block_stride = form_.points * v_point_;
    to.point_stride = v_point_;
    to.tile_stride = stride_;
    LoadTiles(job_.operand[0].source, form_, item, waves_.Row(part) + job_.operand[0].base, tiles,
              to, rows);
    if (job_.operands == 1) return;
    const Source& residual = job_.operand[1].source;
    const int64_t stride = ResidualStride();
    Fill_Run(residual.Rows(item, waves_.Row(part), tiles * form_.outs, 0, residual.channels,
                           residual_ + at * form_.outs * stride, stride));
  }

  // The panels of group g for the parts [begin, end).
  void Multiply(int64_t wave, int64_t begin, int64_t end, int64_t g, float* slot) {
    if (begin == end) return;
    const int64_t p0 = panels_ * g / groups_, panels = panels_ * (g + 1) / groups_ - p0;
    const int64_t at = waves_.Between(wave, begin), tiles = waves_.Between(begin, end);
    const int64_t m_point = Apart(tiles * panel_), points = form_.points;
    float* u = slot;
    float* m = u + wide_ * points * u_point_;
    float* c = m + wide_ * points * m_point;
    float* fc = c + waves_.part_tiles() * form_.outs * panel_;
    float* staged = fc + (job_.operands > 1 ? job_.operand[1].source.channels : 0) * panel_;
    static constexpr float kZeros[32] = {};
    for (int64_t k = 0; k < chunks_; ++k) {
      TransformWeights(k, p0, panels, staged, u);
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t q = 0; q < panels; ++q) {
          WindowArgs a = {};
          a.a = v_ + (k * points + point) * v_point_ + at * stride_;
          a.items = a.taps = 1;
          a.rows = tiles;
          a.row_stride = stride_;
          a.width = Width(k);
          a.b = u + (q * points + point) * u_point_;
          a.init = k == 0 ? kZeros : nullptr;
          a.c = m + (q * points + point) * m_point;
          Window_Run(a);
        }
      }
    }
    for (int64_t q = 0; q < panels; ++q) {
      const int64_t p = p0 + q;
      if (job_.operands > 1) {
        Pack(job_.operand[1].weight, 0, 0, job_.operand[1].source.channels, p * panel_, 1, fc,
             panel_, 0);
      }
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = waves_.Between(begin, part), count = waves_.Tiles(part);
        const int64_t item = waves_.Item(part), of_item = waves_.PartOfItem(part);
        const float* start = output_.Start(p);
        if (job_.operands > 1) {
          MultiplyResidual((at + first) * form_.outs, count * form_.outs, start, fc, c);
          start = nullptr;
        }
        OutputArgs o = {};
        o.points = form_.points;
        o.outs = form_.outs;
        o.m = m + q * points * m_point + first * panel_;
        o.point_stride = m_point;
        o.tiles = count;
        o.init = start;
        o.c = c;
        OutputTransform_Run(o);
        output_.Clear(item, of_item, p);
        output_.Finish(job_.phases[0], item, of_item, waves_.Row(part), count * form_.outs, p, c);
      }
    }
  }

  // U of chunk k for `panels` panels from p.
  void TransformWeights(int64_t k, int64_t p, int64_t panels, float* staged, float* u) const {
    const WeightView& w = job_.operand[0].weight;
    const Phase& phase = job_.phases[0];
    FilterArgs f = {};
    f.points = form_.points;
    f.terms = form_.taps;
    f.rows = Width(k);
    f.panels = panels;
    f.u = u;
    f.point_stride = u_point_;
    f.panel_stride = form_.points * u_point_;
    if (w.out_stride == 1) {
      f.from = w.At(phase.tap_first, k * chunk_, p * panel_);
      f.dtype = w.dtype;
      f.term_stride = phase.tap_step * w.tap_stride;
      f.row_stride = w.in_stride;
      f.width = w.out - p * panel_;
    } else {
      const int64_t columns = panels * panel_;
      for (int64_t t = 0; t < form_.taps; ++t) {
        Pack(w, phase.tap_first + t * phase.tap_step, k * chunk_, f.rows, p * panel_, panels,
             staged + t * f.rows * columns, columns, panel_);
      }
      f.from = staged;
      f.term_stride = f.rows * columns;
      f.row_stride = f.width = columns;
    }
    FilterTransform_Run(f);
  }

  void MultiplyResidual(int64_t row, int64_t rows, const float* start, const float* fc, float* c) {
    const int64_t channels = job_.operand[1].source.channels;
    WindowArgs a = {};
    a.items = a.taps = 1;
    a.rows = rows;
    a.row_stride = ResidualStride();
    a.init = start;
    a.c = c;
    for (int64_t i = 0; i < channels; i += kChunk) {
      a.a = residual_ + row * a.row_stride + i;
      a.b = fc + i * panel_;
      a.width = std::min(kChunk, channels - i);
      Window_Run(a);
      a.init = nullptr;
    }
  }

  const ConvJob job_;
  const Form form_;
  const Waves waves_;
  const int64_t panel_, panels_;
  Output output_;
  int64_t wide_ = 1, groups_ = 0;      // panels are taken in groups of at most wide_
  int64_t splits_ = 1;                 // and a wave's parts in so many runs
  int64_t chunk_ = 0, chunks_ = 0;     // of the channels read
  int64_t stride_ = 0;                 // floats of a row of V
  int64_t u_point_ = 0, v_point_ = 0;  // floats from one point to the next
  float* v_ = nullptr;                 // (chunk, point, tile, stride)
  float* residual_ = nullptr;
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
