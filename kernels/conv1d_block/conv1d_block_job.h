// What a convolution, or the gradient of one, computes; and what becomes of its results.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/conv1d_block/conv1d_block_pack.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"

namespace n2m::conv1d_block {

// One summand of the result: out row u (counted from 0) of a phase is
//   sum over m < taps, i of source row (u * step + base + shift + m), channel i times
//   weight (tap_first + m * tap_step, i, n).
struct Phase {
  int64_t taps = 0, shift = 0, tap_first = 0, tap_step = 1;
  int64_t out_first = 0;  // row u is stored at u * out_step + out_first
  const float* packed = nullptr;
};
struct Operand {
  Source source;
  WeightView weight;
  int64_t step = 1, base = 0, span = 1;  // span: rows one output row reads, over all phases
};

struct ConvJob {
  int64_t batch = 0, rows = 0;  // rows u of each phase
  int64_t out_channels = 0;
  int64_t out_time = 0, out_step = 1;
  DType dtype = DType::kFloat32;
  int64_t operands = 1;
  Operand operand[2];         // the second has one phase, added to each of the first's
  std::vector<Phase> phases;  // of the first operand
  Phase second;
  const float* bias = nullptr;  // padded, or null
  void* out = nullptr;
  // Per-channel totals of each part of each clip, when `totals` is true: of y and y^2, or of du and
  // du (x - mean) when `gradient` is.
  bool totals = false, gradient = false;
  Source through;  // gradient: x, whose swish and normalisation the result goes back through
};

// Takes finished panels: stores them, and gathers the totals of each of `parts` runs of rows that a
// clip is cut in.
class Output {
 public:
  Output(const ConvJob& job, int64_t parts, Arena& arena)
      : job_(job), parts_(parts), panel_(PanelWidth()) {
    columns_ = RoundUp(job.out_channels, panel_);
    start_ = job.bias != nullptr ? job.bias : PadChannels(arena, nullptr, job.out_channels);
    if (job.totals) totals_ = arena.Take<double>(job.batch * parts * 2 * columns_);
  }

  // What the rows of panel p start from.
  const float* Start(int64_t p) const { return start_ + p * panel_; }

  void Clear(int64_t item, int64_t part, int64_t p) const {
    if (!job_.totals) return;
    for (int which = 0; which < 2; ++which) {
      double* at = Totals(item, part, which) + p * panel_;
      std::fill(at, at + panel_, 0.0);
    }
  }

  // c: rows [row, row + rows) of panel p of a clip.
  void Finish(const Phase& phase, int64_t item, int64_t part, int64_t row, int64_t rows, int64_t p,
              const float* c) const {
    const int64_t bytes = item * job_.out_time * job_.out_channels * ElementBytes(job_.dtype);
    StoreArgs s = {};
    s.c = c;
    s.rows = rows;
    s.y = static_cast<char*>(job_.out) + bytes;
    s.dtype = job_.dtype;
    s.channels = job_.out_channels;
    s.first = p * panel_;
    s.width = std::min(panel_, job_.out_channels - s.first);
    s.row0 = row * job_.out_step + phase.out_first;
    s.row_step = job_.out_step;
    s.time = job_.out_time;
    if (job_.totals) {
      s.sum = Totals(item, part, 0) + s.first;
      s.squares = Totals(item, part, 1) + s.first;
    }
    if (!job_.gradient) {
      StoreTile_Run(s);
      return;
    }
    const int64_t params = item * Padded(job_.out_channels);
    GradTile_Run({s, static_cast<const char*>(job_.through.x) + bytes, job_.through.mean + params,
                  job_.through.gain + params, job_.through.offset});
  }

  // Total over the clip of channel n: which = 0 for the first total, 1 for the second.
  double Total(int64_t item, int which, int64_t n) const {
    double total = 0;
    for (int64_t part = 0; part < parts_; ++part) total += Totals(item, part, which)[n];
    return total;
  }

 private:
  double* Totals(int64_t item, int64_t part, int which) const {
    return totals_ + ((item * parts_ + part) * 2 + which) * columns_;
  }

  const ConvJob& job_;
  int64_t parts_, panel_, columns_;
  const float* start_ = nullptr;
  double* totals_ = nullptr;
};

}  // namespace n2m::conv1d_block
