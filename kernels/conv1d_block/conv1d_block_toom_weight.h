// The gradient of a weight of stride 1 by F(K, m): dy takes the place of the filter.
//
//   dweight[k] = sum over tiles of  A^T [ (B^T h) * (G dy) ],  h: n rows, dy: m rows, K results
//
// Since A^T is linear, the products are added over all tiles first and transformed back once. A
// wave of tiles goes in two steps: V = B^T h and W = G dy of every tile, shared by all threads;
// then a task takes a block of channels C x D and adds V[p]^T W[p] over the wave, point by point.
// The sums M of a block stay in L2 where one wave is all there is, else they wait in memory for the
// next wave.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/common/nontemporal.h"
#include "kernels/conv1d_block/conv1d_block_plan.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_toom_cook_simd.h"
#include "kernels/conv1d_block/conv1d_block_waves.h"
#include "kernels/conv1d_block/conv1d_block_weight.h"
#include "noise2music/executor.h"

namespace n2m::conv1d_block {

class ToomCookWeight {
 public:
  // The job has steps of one row.
  ToomCookWeight(const WeightJob& job, const Form& form, Arena& arena, int threads)
      : job_(job),
        form_(form),
        waves_(job.batch, job.rows, form.outs, MostTiles(job, form)),
        panel_(PanelWidth()),
        highs_(CeilDiv(job.h.channels, panel_)),
        wides_(CeilDiv(job.dy.channels, panel_)),
        down_(CeilDiv(highs_ * panel_, kHigh)),
        across_(CeilDiv(wides_ * panel_, kWide)) {
    stream_ = job.taps * job.h.channels * job.dy.channels >= kStreamFloats;
    point_ = Apart(waves_.wave_tiles() * panel_);
    square_ = panel_ * panel_ + 16;
    v_ = arena.Take<float>(highs_ * form.points * point_);
    w_ = arena.Take<float>(wides_ * form.points * point_);
    totals_ = arena.Take<double>(waves_.parts() * wides_ * panel_);
    if (!waves_.one()) sums_ = arena.Take<float>(highs_ * wides_ * form.points * square_);
    const int64_t block = CeilDiv(highs_, down_) * CeilDiv(wides_, across_);
    const int64_t own = waves_.one() ? block * form.points * square_ : 0;
    slots_ = std::make_unique<Slots>(
        arena, threads,
        std::max(LoadFloats(form, std::max(job.h.channels, job.dy.channels)),
                 own + CeilDiv(wides_, across_) * form.taps * panel_ * panel_));
  }

  void Run(Executor& executor) {
    if (waves_.parts() == 0) {
      std::fill_n(job_.dweight, job_.taps * job_.h.channels * job_.dy.channels, 0.0f);
      if (job_.dbias != nullptr) std::fill_n(job_.dbias, job_.dy.channels, 0.0f);
      return;
    }
    for (int64_t first = 0; first < waves_.parts(); first += waves_.wave_parts()) {
      const int64_t last = std::min(first + waves_.wave_parts(), waves_.parts());
      ParallelFor(executor, last - first, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) Load(first, first + i, lease.data());
      });
      ParallelFor(executor, down_ * across_, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i)
          Block(first, last, i / across_, i % across_, lease.data());
        if (stream_) nontemporal::Fence();
      });
    }
    if (job_.dbias == nullptr) return;
    for (int64_t d = 0; d < job_.dy.channels; ++d) {
      double total = 0;
      for (int64_t part = 0; part < waves_.parts(); ++part) {
        total += totals_[part * wides_ * panel_ + d];
      }
      job_.dbias[d] = static_cast<float>(total);
    }
  }

 private:
  static constexpr int64_t kHigh = 64, kWide = 128;  // channels of a block of the result
  static constexpr int64_t kWaveTiles = 256;         // tiles of a wave, at most,
  static constexpr int64_t kWaveFloats = 4 << 20;    // and floats of V and W

  // A gradient of so many floats is in no cache when it is read again.
  static constexpr int64_t kStreamFloats = 2 << 20;

  static int64_t MostTiles(const WeightJob& job, const Form& form) {
    const int64_t row = form.points * (job.h.channels + job.dy.channels);
    return std::clamp<int64_t>(kWaveFloats / row, 32, kWaveTiles);
  }

  // V and W of one part, and the totals of its dy.
  void Load(int64_t wave, int64_t part, float* rows) {
    const int64_t item = waves_.Item(part), tiles = waves_.Tiles(part), row = waves_.Row(part);
    const int64_t at = waves_.Between(wave, part);
    DataArgs to = {};
    to.v = v_ + at * panel_;
    to.block = to.tile_stride = panel_;
    to.block_stride = form_.points * point_;
    to.point_stride = point_;
    LoadTiles(job_.h, form_, item, row + job_.base, tiles, to, rows);
    double* totals = totals_ + part * wides_ * panel_;
    std::fill_n(totals, wides_ * panel_, 0.0);
    const int64_t channels = job_.dy.channels, stride = TileStride(channels);
    for (int64_t t = 0; t < tiles; t += kLoadTiles) {
      const int64_t count = std::min(kLoadTiles, tiles - t);
      Fill_Run(
          job_.dy.Rows(item, row + t * form_.outs, count * form_.outs, 0, channels, rows, stride));
      if (job_.dbias != nullptr) {
        Totals_Run({rows, DType::kFloat32, count * form_.outs, channels, totals, nullptr, stride});
      }
      FilterArgs f = {};
      f.points = form_.points;
      f.terms = form_.outs;
      f.from = rows;
      f.dtype = DType::kFloat32;
      f.term_stride = stride;
      f.row_stride = form_.outs * stride;
      f.rows = count;
      f.width = channels;
      f.panels = wides_;
      f.u = w_ + (at + t) * panel_;
      f.point_stride = point_;
      f.panel_stride = form_.points * point_;
      FilterTransform_Run(f);
    }
  }

  // Adds a wave to the sums of one block; after the last wave, transforms them back.
  void Block(int64_t first, int64_t last, int64_t down, int64_t across, float* slot) {
    const int64_t high0 = highs_ * down / down_, high1 = highs_ * (down + 1) / down_;
    const int64_t wide0 = wides_ * across / across_, wide1 = wides_ * (across + 1) / across_;
    const int64_t wides = wide1 - wide0, squares = form_.points * square_;
    float* sums =
        waves_.one() ? slot : sums_ + (high0 * wides_ + wide0 * (high1 - high0)) * squares;
    float* back = waves_.one() ? slot + (high1 - high0) * wides * squares : slot;
    for (int64_t p = 0; p < form_.points; ++p) {
      for (int64_t i = high0; i < high1; ++i) {
        for (int64_t j = wide0; j < wide1; ++j) {
          ProductArgs a = {};
          a.a = v_ + (i * form_.points + p) * point_;
          a.b = w_ + (j * form_.points + p) * point_;
          a.rows = waves_.Between(first, last);
          a.c = sums + ((i - high0) * wides + j - wide0) * squares + p * square_;
          a.add = first > 0;
          Product_Run(a);
        }
      }
    }
    if (last < waves_.parts()) return;
    for (int64_t i = high0; i < high1; ++i) {
      Back(sums + (i - high0) * wides * squares, wides, i * panel_, wide0 * panel_, back);
    }
  }

  // A row of squares of sums into the gradient at channels c0 and d0, as long runs of memory.
  void Back(const float* sums, int64_t wides, int64_t c0, int64_t d0, float* back) {
    static constexpr float kZeros[32] = {};
    const int64_t channels = job_.h.channels, outs = job_.dy.channels;
    const int64_t one = form_.taps * panel_ * panel_;
    OutputArgs o = {};
    o.points = form_.points;
    o.outs = form_.taps;
    o.point_stride = square_;
    o.tiles = std::min(panel_, channels - c0);
    o.init = kZeros;
    for (int64_t j = 0; j < wides; ++j) {
      o.m = sums + j * form_.points * square_;
      o.c = back + j * one;
      OutputTransform_Run(o);
    }
    for (int64_t k = 0; k < form_.taps; ++k) {
      for (int64_t c = 0; c < o.tiles; ++c) {
        float* to = job_.dweight + (k * channels + c0 + c) * outs + d0;
        for (int64_t j = 0; j < wides; ++j) {
          const float* from = back + j * one + (c * form_.taps + k) * panel_;
          const int64_t count = std::min(panel_, outs - d0 - j * panel_);
          if (stream_) {
            nontemporal::Copy(from, count, to + j * panel_);
          } else {
            std::copy_n(from, count, to + j * panel_);
          }
        }
      }
    }
  }

  const WeightJob job_;
  const Form form_;
  const Waves waves_;
  const int64_t panel_;
  const int64_t highs_, wides_;        // panels of h's channels, of dy's
  const int64_t down_, across_;        // blocks of panels
  int64_t point_ = 0;                  // floats from one point of V or W to the next
  int64_t square_ = 0;                 // the same of M
  float *v_ = nullptr, *w_ = nullptr;  // (panel, point, tile, panel's columns)
  bool stream_ = false;                // the gradient goes past the caches
  float* sums_ = nullptr;              // blocks of (high, wide, point, square)
  double* totals_ = nullptr;           // of dy, a part
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
