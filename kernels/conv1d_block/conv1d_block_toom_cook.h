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

#include "kernels/conv1d_block/conv1d_block_amx_operand.h"
#include "kernels/conv1d_block/conv1d_block_amx_product.h"
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
  // The job has one phase and steps of one row. The residual's product is direct or on the matrix
  // tiles of AMX.
  ToomCook(const ConvJob& job, const Form& form, const Form& residual, Arena& arena, int threads)
      : job_(job),
        form_(form),
        residual_on_tiles_(job.operands > 1 && residual.amx),
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
    const int64_t rows = waves_.wave_tiles() * form.outs;
    int64_t load_floats = LoadFloats(form, channels);
    if (residual_on_tiles_) {
      for (uint16_t*& piece : pieces_) {
        piece = arena.Take<uint16_t>(RoundUp(rows, kAmxRows) * ResidualStride());
      }
      load_floats = std::max(load_floats, kAmxFillRows * ResidualStride());
    } else if (job.operands > 1) {
      residual_ = arena.Take<float>(rows * ResidualStride());
    }
    slots_ = std::make_unique<Slots>(arena, threads, std::max(load_floats, MultiplyFloats()));
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
  int64_t ResidualStride() const {
    const int64_t channels = job_.operand[1].source.channels;
    return residual_on_tiles_ ? AmxStride(channels) : TileStride(channels);
  }
  // Floats of a panel of fc; on tiles at most two pieces of bfloat16 a weight.
  int64_t FcFloats() const {
    return job_.operands > 1 ? RoundUp(job_.operand[1].source.channels, kAmxDepth) * panel_ : 0;
  }
  int64_t PartFloats() const {
    return RoundUp(waves_.part_tiles() * form_.outs, kAmxRows) * panel_;
  }
  int64_t MultiplyFloats() const {
    const int64_t staged = job_.operand[0].weight.out_stride == 1 ? 0 : form_.taps;
    return wide_ * form_.points * (u_point_ + Apart(waves_.wave_tiles() * panel_)) +
           panel_ * staged * wide_ * chunk_ + PartFloats() + FcFloats();
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
    const int64_t count = tiles * form_.outs, stride = ResidualStride();
    const int64_t to_row = at * form_.outs * stride;
    if (residual_on_tiles_) {
      uint16_t* const pieces[2] = {pieces_[0] + to_row, pieces_[1] + to_row};
      AmxFill(residual, item, waves_.Row(part), count, pieces, stride, rows);
    } else {
      Fill_Run(residual.Rows(item, waves_.Row(part), count, 0, residual.channels,
                             residual_ + to_row, stride));
    }
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
    float* fc = c + PartFloats();
    float* staged = fc + FcFloats();
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
      if (job_.operands > 1) PackFc(p, fc);
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

  void PackFc(int64_t p, float* fc) const {
    const WeightView& w = job_.operand[1].weight;
    if (!residual_on_tiles_) return Pack(w, 0, 0, w.in, p * panel_, 1, fc, panel_, 0);
    uint16_t* to = reinterpret_cast<uint16_t*>(fc);
    const int64_t step = AmxPieces(w.dtype) * kAmxStep;
    for (int64_t in = 0; in < w.in; in += kAmxDepth, to += step) AmxPackStep(w, 0, in, p, 1, to, 0);
  }

  // c = start + rows of the residual, counted from the first of the wave, times a panel of fc.
  void MultiplyResidual(int64_t row, int64_t rows, const float* start, const float* fc,
                        float* c) const {
    const Operand& residual = job_.operand[1];
    const int64_t channels = residual.source.channels, stride = ResidualStride();
    if (!residual_on_tiles_) {
      WindowArgs a = {};
      a.items = a.taps = 1;
      a.rows = rows;
      a.row_stride = stride;
      a.init = start;
      a.c = c;
      for (int64_t i = 0; i < channels; i += kChunk) {
        a.a = residual_ + row * stride + i;
        a.b = fc + i * panel_;
        a.width = std::min(kChunk, channels - i);
        Window_Run(a);
        a.init = nullptr;
      }
      return;
    }
    AmxSession session;
    constexpr int64_t kSteps = 32;
    int64_t offset[kSteps];
    AmxArgs a = {};
    a.rows = rows;
    a.row_stride = stride;
    a.offset = offset;
    a.a_pieces = AmxPieces(residual.source.dtype);
    a.b_pieces = AmxPieces(residual.weight.dtype);
    a.b = reinterpret_cast<const uint16_t*>(fc);
    a.c = c;
    a.c_stride = kAmxPanel;
    a.init = start;
    for (int p = 0; p < a.a_pieces; ++p) a.a[p] = pieces_[p] + row * stride;
    const int64_t steps = CeilDiv(channels, kAmxDepth);
    for (int64_t s = 0; s < steps; s += kSteps) {
      a.steps = std::min(kSteps, steps - s);
      for (int64_t i = 0; i < a.steps; ++i) offset[i] = (s + i) * kAmxDepth;
      AmxProduct_Run(a);
      a.b += a.steps * a.b_pieces * kAmxStep;
      a.init = c;
      a.init_stride = kAmxPanel;
    }
  }

  const ConvJob job_;
  const Form form_;
  const bool residual_on_tiles_;
  const Waves waves_;
  const int64_t panel_, panels_;
  Output output_;
  int64_t wide_ = 1, groups_ = 0;      // panels are taken in groups of at most wide_
  int64_t splits_ = 1;                 // and a wave's parts in so many runs
  int64_t chunk_ = 0, chunks_ = 0;     // of the channels read
  int64_t stride_ = 0;                 // floats of a row of V
  int64_t u_point_ = 0, v_point_ = 0;  // floats from one point to the next
  float* v_ = nullptr;                 // (chunk, point, tile, stride)
  float* residual_ = nullptr;          // rows of a wave,
  uint16_t* pieces_[2] = {};           // or their pieces
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
