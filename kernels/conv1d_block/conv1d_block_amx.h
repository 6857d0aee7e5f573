// A convolution, or the gradient of one, on the matrix tiles of AMX.
//
// Rows are cut in parts, a clip's by its length alone, and the parts of all clips are taken in
// waves. First a wave's rows are loaded, normalised, swished and rounded to bfloat16 pieces, which
// all threads share. Then a task takes a few panels of output channels and some of the parts: it
// packs the panels' weights chunk by chunk into L2 and multiplies. Every result is one sum in one
// order, so a clip comes out the same in any batch and on any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_amx_operand.h"
#include "kernels/conv1d_block/conv1d_block_amx_product.h"
#include "kernels/conv1d_block/conv1d_block_job.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "noise2music/executor.h"

namespace n2m::conv1d_block {

class AmxConv {
 public:
  AmxConv(const ConvJob& job, Arena& arena, int threads)
      : job_(job),
        clip_parts_(CeilDiv(job.rows, kPartRows)),
        part_rows_(clip_parts_ > 0 ? RoundUp(CeilDiv(job.rows, clip_parts_), kAmxRows) : 0),
        parts_(job.batch * clip_parts_),
        panels_(CeilDiv(job.out_channels, kAmxPanel)),
        output_(job_, clip_parts_, arena) {
    if (parts_ == 0) return;
    int64_t part_bytes = 0;
    for (int64_t o = 0; o < job.operands; ++o) {
      Rows& rows = rows_[o];
      const Operand& op = job.operand[o];
      rows.pieces = AmxPieces(op.source.dtype);
      rows.stride = AmxStride(op.source.channels);
      rows.count = (part_rows_ - 1) * op.step + op.span;
      part_bytes += 2 * rows.pieces * rows.count * rows.stride;
    }
    const int64_t most = std::max<int64_t>(kWaveBytes / part_bytes, 1);
    wave_parts_ = CeilDiv(parts_, CeilDiv(parts_, most));
    for (int64_t o = 0; o < job.operands; ++o) {
      Rows& rows = rows_[o];
      for (int p = 0; p < rows.pieces; ++p) {
        rows.piece[p] = arena.Take<uint16_t>(wave_parts_ * rows.count * rows.stride);
      }
    }
    const int64_t fit = std::max<int64_t>(kWideRows / (wave_parts_ * part_rows_), 1);
    wide_ = std::clamp<int64_t>(std::min(fit, panels_ / (2 * threads)), 1, kWide);
    groups_ = CeilDiv(panels_, wide_);
    splits_ = std::clamp<int64_t>(CeilDiv(kTasks, groups_), 1, wave_parts_);
    c_floats_ = CeilDiv(wave_parts_, splits_) * part_rows_ * kAmxPanel;
    slots_ = std::make_unique<Slots>(
        arena, threads,
        std::max(wide_ * c_floats_ + kChunkBytes / 4,
                 kAmxFillRows * std::max(rows_[0].stride, rows_[1].stride)));
  }

  void Run(Executor& executor) {
    for (int64_t first = 0; first < parts_; first += wave_parts_) {
      const int64_t count = std::min(wave_parts_, parts_ - first);
      const int64_t runs = CeilDiv(rows_[0].count, kRunRows);
      ParallelFor(executor, count * runs, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t o = 0; o < job_.operands; ++o) {
            Fill(o, first, i / runs, i % runs, runs, lease.data());
          }
        }
      });
      ParallelFor(executor, groups_ * splits_, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t split = i % splits_, p = panels_ * (i / splits_) / groups_;
          const int64_t part = count * split / splits_;
          Multiply({first, part, count * (split + 1) / splits_, p,
                    panels_ * (i / splits_ + 1) / groups_ - p},
                   lease.data());
        }
      });
    }
  }

  double Total(int64_t item, int which, int64_t n) const { return output_.Total(item, which, n); }

 private:
  static constexpr int64_t kPartRows = 512;
  static constexpr int64_t kWaveBytes = 4 << 20;     // of rows that all threads share
  static constexpr int64_t kRunRows = 64;            // of a part, loaded by one task
  static constexpr int64_t kTasks = 16;              // of a wave, at least
  static constexpr int64_t kChunkBytes = 256 << 10;  // packed weights of a task, in L2
  static constexpr int64_t kMostSteps = 128;
  // Memory likes long runs: with few rows a task packs up to kWide panels together.
  static constexpr int64_t kWide = 8, kWideRows = 2048;

  struct Rows {
    int pieces = 0;
    int64_t stride = 0, count = 0;  // of a part
    uint16_t* piece[2] = {nullptr, nullptr};
  };
  // Parts [begin, end) of the wave that begins at part `first`, and panels.
  struct Range {
    int64_t first, begin, end, p, panels;
  };

  int64_t Item(int64_t part) const { return part / clip_parts_; }
  int64_t PartOfItem(int64_t part) const { return part % clip_parts_; }
  int64_t Row(int64_t part) const { return PartOfItem(part) * part_rows_; }

  // One of `runs` runs of the rows of a part.
  void Fill(int64_t o, int64_t first, int64_t part, int64_t run, int64_t runs, float* buffer) {
    const Operand& op = job_.operand[o];
    const Rows& rows = rows_[o];
    const int64_t begin = rows.count * run / runs, end = rows.count * (run + 1) / runs;
    const int64_t at = (part * rows.count + begin) * rows.stride;
    uint16_t* const to[2] = {rows.piece[0] + at, rows.piece[1] + (rows.pieces > 1 ? at : 0)};
    AmxFill(op.source, Item(first + part), Row(first + part) * op.step + op.base + begin,
            end - begin, to, rows.stride, buffer);
  }

  void Multiply(const Range& range, float* slot) {
    if (range.begin == range.end) return;
    AmxSession session;
    float* c = slot;
    uint16_t* packed = reinterpret_cast<uint16_t*>(slot + wide_ * c_floats_);
    const auto each = [&](const auto& body) {
      for (int64_t q = 0; q < range.panels; ++q) {
        for (int64_t t = range.begin; t < range.end; ++t) {
          body(range.p + q, range.first + t,
               c + q * c_floats_ + (t - range.begin) * part_rows_ * kAmxPanel);
        }
      }
    };
    each([&](int64_t panel, int64_t part, const float*) {
      output_.Clear(Item(part), PartOfItem(part), panel);
    });
    for (const Phase& phase : job_.phases) {
      bool started = false;
      Product(0, phase, range, c, packed, &started);
      if (job_.operands > 1) Product(1, job_.second, range, c, packed, &started);
      each([&](int64_t panel, int64_t part, float* rows) {
        const int64_t n = std::min(part_rows_, job_.rows - Row(part));
        if (!started) {  // a phase without taps
          for (int64_t r = 0; r < n; ++r) {
            std::copy_n(output_.Start(panel), kAmxPanel, rows + r * kAmxPanel);
          }
        }
        output_.Finish(phase, Item(part), PartOfItem(part), Row(part), n, panel, rows);
      });
    }
  }

  // c (+)= an operand's rows times a range's panels, in chunks of steps: 32 channels and a tap.
  // Taps go first, so that they find the rows in L1.
  void Product(int64_t o, const Phase& phase, const Range& range, float* c, uint16_t* packed,
               bool* started) {
    const Operand& op = job_.operand[o];
    const Rows& rows = rows_[o];
    const int64_t steps = phase.taps * CeilDiv(op.weight.in, kAmxDepth);
    const int pieces = AmxPieces(op.weight.dtype);
    const int64_t step_size = pieces * kAmxStep;
    const int64_t chunk =
        std::clamp<int64_t>(kChunkBytes / (2 * step_size * range.panels), 1, kMostSteps);
    int64_t offset[kMostSteps];
    AmxArgs a = {};
    a.row_stride = rows.stride * op.step;
    a.offset = offset;
    a.a_pieces = rows.pieces;
    a.b_pieces = pieces;
    a.c_stride = kAmxPanel;
    for (int64_t s = 0; s < steps; s += chunk) {
      a.steps = std::min(chunk, steps - s);
      for (int64_t i = 0; i < a.steps; ++i) {
        const int64_t tap = (s + i) % phase.taps, in = (s + i) / phase.taps * kAmxDepth;
        offset[i] = (phase.shift + tap) * rows.stride + in;
        AmxPackStep(op.weight, phase.tap_first + tap * phase.tap_step, in, range.p, range.panels,
                    packed + i * step_size, chunk * step_size);
      }
      for (int64_t q = 0; q < range.panels; ++q) {
        a.b = packed + q * chunk * step_size;
        for (int64_t t = range.begin; t < range.end; ++t) {
          const int64_t part = range.first + t;
          a.rows = std::min(part_rows_, job_.rows - Row(part));
          for (int p = 0; p < rows.pieces; ++p) {
            a.a[p] = rows.piece[p] + t * rows.count * rows.stride;
          }
          a.c = c + q * c_floats_ + (t - range.begin) * part_rows_ * kAmxPanel;
          a.init = *started ? a.c : output_.Start(range.p + q);
          a.init_stride = *started ? kAmxPanel : 0;
          AmxProduct_Run(a);
        }
      }
      *started = true;
    }
  }

  ConvJob job_;
  int64_t clip_parts_, part_rows_, parts_, panels_;
  int64_t wave_parts_ = 0;
  Rows rows_[2];
  int64_t wide_ = 1, groups_ = 0, splits_ = 1, c_floats_ = 0;
  Output output_;
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
