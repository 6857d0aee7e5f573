#include "noise2music/conv1d_block.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "conv1d_block/conv1d_block_simd.h"
#include "conv1d_block/conv1d_block_tiles.h"

namespace n2m {
namespace {

using namespace conv1d_block;  // NOLINT: the room's own names

int64_t ElementBytes(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

Status Check(const Conv1dBlockShape& s) {
  const auto fail = [](const std::string& what, int64_t got) {
    return Status::InvalidArgument("n2m.conv1d_block: " + what + ", got " + std::to_string(got));
  };
  if (s.batch < 0) return fail("batch must be at least 0", s.batch);
  if (s.time < 0) return fail("time must be at least 0", s.time);
  if (s.channels < 1) return fail("channels must be at least 1", s.channels);
  if (s.kernel < 1) return fail("kernel must be at least 1", s.kernel);
  if (s.out_channels < 1) return fail("out_channels must be at least 1", s.out_channels);
  if (s.stride < 1) return fail("stride must be at least 1", s.stride);
  if (s.residual_channels < 0) {
    return fail("residual_channels must be at least 0", s.residual_channels);
  }
  if (s.groups < 0 || (s.groups > 0 && s.channels % s.groups != 0)) {
    return fail("groups must be a positive divisor of channels, or 0", s.groups);
  }
  if (s.out_groups < 0 || (s.out_groups > 0 && s.out_channels % s.out_groups != 0)) {
    return fail("out_groups must be a positive divisor of out_channels, or 0", s.out_groups);
  }
  return Status::Ok();
}

// Zeros before the first row, as lax pads for SAME.
int64_t PadBefore(const Conv1dBlockShape& s) {
  const int64_t out = Conv1dBlockOutTime(s);
  return std::max<int64_t>((out - 1) * s.stride + s.kernel - s.time, 0) / 2;
}

// A (batch, time, channels) array and what happens to it on load.
struct Source {
  const void* x = nullptr;
  DType dtype = DType::kFloat32;
  int64_t time = 0, channels = 0;
  const float *mean = nullptr, *gain = nullptr;  // (batch, Padded(channels))
  const float* offset = nullptr;                 // (Padded(channels))
  const void* y = nullptr;
  const float *add = nullptr, *mul = nullptr;  // (batch, Padded(channels))

  FillArgs Rows(int64_t item, int64_t row0, int64_t rows, int64_t first, int64_t width, float* out,
                int64_t out_stride) const {
    const int64_t bytes = item * time * channels * ElementBytes(dtype);
    const int64_t params = item * Padded(channels);
    FillArgs a = {};
    a.x = static_cast<const char*>(x) + bytes;
    a.dtype = dtype;
    a.time = time;
    a.channels = channels;
    a.row0 = row0;
    a.rows = rows;
    a.first = first;
    a.width = width;
    if (mean != nullptr) {
      a.mean = mean + params;
      a.gain = gain + params;
      a.offset = offset;
    }
    if (y != nullptr) {
      a.y = static_cast<const char*>(y) + bytes;
      a.add = add + params;
      a.mul = mul + params;
    }
    a.out = out;
    a.out_stride = out_stride;
    return a;
  }
};

// Copies a per-channel array into padded scratch, so that vectors may be read at its end.
float* PadChannels(Arena& arena, const float* from, int64_t channels) {
  float* to = arena.Take<float>(Padded(channels));
  if (to == nullptr) return to;
  std::fill(to, to + Padded(channels), 0.0f);
  if (from != nullptr) std::copy(from, from + channels, to);
  return to;
}

// What the normalisation of one group comes to.
struct Moments {
  double mean = 0, variance = 0, rstd = 0;
  Moments(const float* sums, double n, double eps) {
    mean = sums[0] / n;
    variance = std::max(sums[1] / n - mean * mean, 0.0);
    rstd = 1.0 / std::sqrt(variance + eps);
  }
};
double GroupCount(const Conv1dBlockShape& s) {
  return static_cast<double>(s.time) * static_cast<double>(s.channels / s.groups);
}

// x as the convolution reads it: normalised and swished when groups > 0.
Source InputSource(Arena& arena, const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                   const float* sums) {
  Source source;
  source.x = in.x;
  source.dtype = s.dtype;
  source.time = s.time;
  source.channels = s.channels;
  if (s.groups == 0) return source;
  const int64_t padded = Padded(s.channels), width = s.channels / s.groups;
  float* mean = arena.Take<float>(s.batch * padded);
  float* gain = arena.Take<float>(s.batch * padded);
  source.offset = PadChannels(arena, in.offset, s.channels);
  if (mean == nullptr || s.time == 0) return source;
  std::fill(mean, mean + s.batch * padded, 0.0f);
  std::fill(gain, gain + s.batch * padded, 0.0f);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t g = 0; g < s.groups; ++g) {
      const Moments m(sums + (b * s.groups + g) * 2, GroupCount(s), s.eps);
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        mean[b * padded + c] = static_cast<float>(m.mean);
        gain[b * padded + c] = static_cast<float>(m.rstd * in.scale[c]);
      }
    }
  }
  source.mean = mean;
  source.gain = gain;
  return source;
}

// dy with the cotangent of the sums of y added on load.
Source CotangentSource(Arena& arena, const Conv1dBlockShape& s, const Conv1dBlockCotangents& cot) {
  Source source;
  source.x = cot.dy;
  source.dtype = s.dtype;
  source.time = Conv1dBlockOutTime(s);
  source.channels = s.out_channels;
  if (s.out_groups == 0) return source;
  const int64_t padded = Padded(s.out_channels), width = s.out_channels / s.out_groups;
  float* add = arena.Take<float>(s.batch * padded);
  float* mul = arena.Take<float>(s.batch * padded);
  if (add == nullptr) return source;
  std::fill(add, add + s.batch * padded, 0.0f);
  std::fill(mul, mul + s.batch * padded, 0.0f);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t d = 0; d < s.out_channels; ++d) {
      const float* sums = cot.d_out_sums + (b * s.out_groups + d / width) * 2;
      add[b * padded + d] = sums[0];
      mul[b * padded + d] = 2.0f * sums[1];
    }
  }
  source.y = cot.y;
  source.add = add;
  source.mul = mul;
  return source;
}

// ---------------------------------------------------------------- a convolution over tiles of rows

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
  int64_t phases = 1;
};

struct ConvJob {
  int64_t batch = 0, rows = 0;       // rows u of each phase
  int64_t out_channels = 0;
  int64_t out_time = 0, out_step = 1;
  DType dtype = DType::kFloat32;
  int64_t operands = 1;
  Operand operand[2];          // the second has one phase, added to each of the first's
  std::vector<Phase> phases;   // of the first operand
  Phase second;
  const float* bias = nullptr;  // padded, or null
  void* out = nullptr;
  // Per-channel totals of each tile of each clip, when `totals` is true: of y and y^2, or of du and
  // du (x - mean) when `gradient` is.
  bool totals = false, gradient = false;
  Source through;  // gradient: x, whose swish and normalisation the result goes back through
};

class Conv {
 public:
  Conv(const ConvJob& job, Arena& arena, int threads)
      : job_(job), tiling_(MakeTiling(job)), panel_(PanelWidth()) {
    panels_ = CeilDiv(job.out_channels, panel_);
    // Few tiles: share each among several tasks, by columns. Each loads the tile anew, so keep columns wide.
    columns_ = std::clamp<int64_t>(CeilDiv(16, std::max<int64_t>(tiling_.count, 1)), 1,
                                   CeilDiv(panels_ * panel_, 128));
    if (tiling_.count > kPackAsYouGo) {
      for (Phase& phase : job_.phases) PackOperand(job_.operand[0], phase, arena);
      if (job_.operands > 1) PackOperand(job_.operand[1], job_.second, arena);
    }
    zeros_ = PadChannels(arena, nullptr, job.out_channels);
    if (job.totals) totals_ = arena.Take<double>(job.batch * tiling_.per_item * 2 * Columns());
    slots_ = std::make_unique<Slots>(arena, threads, SlotFloats());
  }

  void Run(Executor& executor) {
    PackAll(executor);
    ParallelFor(executor, tiling_.count * columns_, 1, [this](int64_t begin, int64_t end) {
      Slots::Lease lease(*slots_);
      for (int64_t i = begin; i < end; ++i) Unit(i / columns_, i % columns_, lease.data());
    });
  }

  // Total over the clip of channel n: which = 0 for the first total, 1 for the second.
  double Total(int64_t item, int which, int64_t n) const {
    double total = 0;
    for (int64_t t = 0; t < tiling_.per_item; ++t) total += TotalsAt(item, t, which)[n];
    return total;
  }

 private:
  static constexpr int64_t kPackAsYouGo = 2;  // up to so many tiles, packing all weights first costs more

  static Tiling MakeTiling(const ConvJob& job) {
    int64_t row = 0, halo = 0;
    for (int64_t o = 0; o < job.operands; ++o) {
      const Operand& op = job.operand[o];
      const int64_t stride = TileStride(op.source.channels);
      row += stride * op.step;
      halo += stride * std::max<int64_t>(op.span - op.step, 0);
    }
    return Tiling::Make(job.batch, job.rows, row, halo);
  }

  int64_t Columns() const { return panels_ * panel_; }
  double* TotalsAt(int64_t item, int64_t tile, int which) const {
    return totals_ + ((item * tiling_.per_item + tile) * 2 + which) * Columns();
  }
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
      const int64_t item_floats = ItemFloats(op, tile.rows), stride = TileStride(op.source.channels);
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
      if (job_.totals) ClearTotals(tile, p);
      for (const Phase& phase : job_.phases) {
        const float* init = (job_.bias != nullptr ? job_.bias : zeros_) + p * panel_;
        Product(job_.operand[0], phase, tile, p, buffers[0], init, c, fresh);
        if (job_.operands > 1) {
          Product(job_.operand[1], job_.second, tile, p, buffers[1], nullptr, c, fresh);
        }
        Finish(phase, tile, p, c);
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

  void ClearTotals(const Tile& tile, int64_t p) {
    for (int64_t i = 0; i < tile.items; ++i) {
      for (int which = 0; which < 2; ++which) {
        double* at = TotalsAt(tile.item + i, tile.row / tiling_.tile_rows, which) + p * panel_;
        std::fill(at, at + panel_, 0.0);
      }
    }
  }

  void Finish(const Phase& phase, const Tile& tile, int64_t p, const float* c) {
    for (int64_t i = 0; i < tile.items; ++i) {
      const int64_t item = tile.item + i;
      const int64_t bytes = item * job_.out_time * job_.out_channels * ElementBytes(job_.dtype);
      StoreArgs s = {};
      s.c = c + i * tile.rows * panel_;
      s.rows = tile.rows;
      s.y = static_cast<char*>(job_.out) + bytes;
      s.dtype = job_.dtype;
      s.channels = job_.out_channels;
      s.first = p * panel_;
      s.width = std::min(panel_, job_.out_channels - s.first);
      s.row0 = tile.row * job_.out_step + phase.out_first;
      s.row_step = job_.out_step;
      s.time = job_.out_time;
      if (job_.totals) {
        s.sum = TotalsAt(item, tile.row / tiling_.tile_rows, 0) + s.first;
        s.squares = TotalsAt(item, tile.row / tiling_.tile_rows, 1) + s.first;
      }
      if (!job_.gradient) {
        StoreTile_Run(s);
        continue;
      }
      const int64_t params = item * Padded(job_.out_channels);
      GradTile_Run({s, static_cast<const char*>(job_.through.x) + bytes, job_.through.mean + params,
                    job_.through.gain + params, job_.through.offset});
    }
  }

  ConvJob job_;
  Tiling tiling_;
  int64_t panel_, panels_ = 0, columns_ = 1;
  const float* zeros_ = nullptr;
  double* totals_ = nullptr;
  std::unique_ptr<Slots> slots_;
};

WeightView Forwards(const void* data, DType dtype, int64_t in, int64_t out) {
  return {data, dtype, in, out, in * out, out, 1};
}
WeightView Transposed(const void* data, DType dtype, int64_t in, int64_t out) {
  return {data, dtype, out, in, in * out, 1, out};
}

ConvJob ForwardJob(Arena& arena, const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                   const float* sums, void* y) {
  ConvJob job;
  job.batch = s.batch;
  job.rows = job.out_time = Conv1dBlockOutTime(s);
  job.out_channels = s.out_channels;
  job.dtype = s.dtype;
  job.out = y;
  job.totals = s.out_groups > 0;
  Operand& main = job.operand[0];
  main.source = InputSource(arena, s, in, sums);
  main.weight = Forwards(in.weight, s.weight_dtype, s.channels, s.out_channels);
  main.step = s.stride;
  main.base = -PadBefore(s);
  main.span = s.kernel;
  Phase phase;
  phase.taps = s.kernel;
  job.phases = {phase};
  if (s.residual_channels > 0) {
    job.operands = 2;
    Operand& residual = job.operand[1];
    residual.source.x = in.residual;
    residual.source.dtype = s.dtype;
    residual.source.time = job.rows;
    residual.source.channels = s.residual_channels;
    residual.weight = Forwards(in.fc, s.weight_dtype, s.residual_channels, s.out_channels);
    job.second.taps = 1;
  }
  job.bias = PadChannels(arena, in.bias, s.out_channels);
  return job;
}

// dh row i gathers dy row t through tap k where t * stride + k - pad = i. With p = (i + pad) mod stride and
// u = (i + pad - p) / stride that is k = p + m * stride, t = u - m: `stride` convolutions of stride 1
// over dy, each with every stride-th tap backwards, whose results interleave.
ConvJob InputGradientJob(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                         const Source& cotangent, const Source& x, void* dx) {
  const int64_t pad = PadBefore(s);
  const int64_t first = pad / s.stride;  // the smallest u of any phase
  ConvJob job;
  job.batch = s.batch;
  job.rows = s.time > 0 ? (s.time - 1 + pad) / s.stride - first + 1 : 0;
  job.out_channels = s.channels;
  job.out_time = s.time;
  job.out_step = s.stride;
  job.dtype = s.dtype;
  job.out = dx;
  job.totals = job.gradient = s.groups > 0;
  job.through = x;
  Operand& main = job.operand[0];
  main.source = cotangent;
  main.weight = Transposed(in.weight, s.weight_dtype, s.channels, s.out_channels);
  main.span = CeilDiv(s.kernel, s.stride);
  main.base = first - (main.span - 1);
  for (int64_t p = 0; p < s.stride; ++p) {
    Phase phase;
    phase.taps = p < s.kernel ? CeilDiv(s.kernel - p, s.stride) : 0;
    phase.shift = main.span - phase.taps;
    phase.tap_first = p + (phase.taps - 1) * s.stride;
    phase.tap_step = -s.stride;
    phase.out_first = first * s.stride + p - pad;
    job.phases.push_back(phase);
  }
  return job;
}

// dresidual = dy @ fc^T
ConvJob ResidualGradientJob(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                            const Source& cotangent, void* dresidual) {
  ConvJob job;
  job.batch = s.batch;
  job.rows = job.out_time = Conv1dBlockOutTime(s);
  job.out_channels = s.residual_channels;
  job.dtype = s.dtype;
  job.out = dresidual;
  job.operand[0].source = cotangent;
  job.operand[0].weight =
      Transposed(in.fc, s.weight_dtype, s.residual_channels, s.out_channels);
  Phase phase;
  phase.taps = 1;
  job.phases = {phase};
  return job;
}

int64_t Floats(const Arena& arena) { return CeilDiv(arena.used(), 4); }

}  // namespace

int64_t Conv1dBlockOutTime(const Conv1dBlockShape& s) { return CeilDiv(s.time, s.stride); }

namespace {

// Rows of x a task of GroupSums adds up.
int64_t SumsRows(int64_t channels) {
  return std::max<int64_t>((16 << 10) / channels / kFlushRows, 1) * kFlushRows;
}

struct SumsPlan {
  int64_t rows, per_item, columns;
  double* partial;
  SumsPlan(Arena& arena, int64_t batch, int64_t time, int64_t channels)
      : rows(SumsRows(channels)),
        per_item(CeilDiv(time, rows)),
        columns(RoundUp(channels, PanelWidth())),
        partial(arena.Take<double>(batch * per_item * 2 * columns)) {}
};

}  // namespace

int64_t GroupSumsScratch(int64_t batch, int64_t time, int64_t channels, int64_t /*groups*/) {
  Arena arena(nullptr);
  SumsPlan plan(arena, batch, time, std::max<int64_t>(channels, 1));
  return Floats(arena);
}

Status GroupSums(const void* x, DType dtype, int64_t batch, int64_t time, int64_t channels,
                 int64_t groups, float* sums, void* scratch, Executor& executor) {
  if (groups < 1 || channels < 1 || channels % groups != 0) {
    return Status::InvalidArgument("n2m.conv1d_block: groups must be a positive divisor of C=" +
                                   std::to_string(channels) + ", got " + std::to_string(groups));
  }
  Arena arena(scratch);
  const SumsPlan plan(arena, batch, time, channels);
  ParallelFor(executor, batch * plan.per_item, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % plan.per_item * plan.rows;
      double* partial = plan.partial + i * 2 * plan.columns;
      std::fill(partial, partial + 2 * plan.columns, 0.0);
      const int64_t at = (i / plan.per_item * time + row) * channels * ElementBytes(dtype);
      Totals_Run({static_cast<const char*>(x) + at, dtype, std::min(plan.rows, time - row), channels,
                  partial, partial + plan.columns});
    }
  });
  const int64_t width = channels / groups;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int which = 0; which < 2; ++which) {
        double total = 0;
        for (int64_t t = 0; t < plan.per_item; ++t) {
          const double* from =
              plan.partial + ((b * plan.per_item + t) * 2 + which) * plan.columns + g * width;
          for (int64_t c = 0; c < width; ++c) total += from[c];
        }
        sums[(b * groups + g) * 2 + which] = static_cast<float>(total);
      }
    }
  }
  return Status::Ok();
}

int64_t Conv1dBlockFwdScratch(const Conv1dBlockShape& s, int threads) {
  if (!Check(s).ok()) return 0;
  Arena arena(nullptr);
  const ConvJob job = ForwardJob(arena, s, {}, nullptr, nullptr);
  Conv conv(job, arena, threads);
  const int64_t sums = s.groups > 0 ? s.batch * s.groups * 2 + 16 +
                                          GroupSumsScratch(s.batch, s.time, s.channels, s.groups)
                                    : 0;
  return Floats(arena) + sums;
}

Status Conv1dBlockFwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in, void* y,
                      float* out_sums, void* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  Arena arena(scratch);
  const float* sums = in.sums;
  if (s.groups > 0 && sums == nullptr) {
    float* own = arena.Take<float>(s.batch * s.groups * 2);
    float* temporary =
        arena.Take<float>(GroupSumsScratch(s.batch, s.time, s.channels, s.groups));
    Status status = GroupSums(in.x, s.dtype, s.batch, s.time, s.channels, s.groups, own, temporary,
                              executor);
    if (!status.ok()) return status;
    sums = own;
  }
  const ConvJob job = ForwardJob(arena, s, in, sums, y);
  Conv conv(job, arena, executor.num_threads());
  conv.Run(executor);
  const int64_t width = s.out_groups > 0 ? s.out_channels / s.out_groups : 0;
  for (int64_t i = 0; i < s.batch * s.out_groups; ++i) {
    for (int which = 0; which < 2; ++which) {
      double total = 0;
      for (int64_t c = 0; c < width; ++c) {
        total += conv.Total(i / s.out_groups, which, i % s.out_groups * width + c);
      }
      out_sums[i * 2 + which] = static_cast<float>(total);
    }
  }
  return Status::Ok();
}

int64_t Conv1dBlockBwdScratch(const Conv1dBlockShape& s, int threads) {
  if (!Check(s).ok()) return 0;
  Arena arena(nullptr);
  const Source x = InputSource(arena, s, {}, nullptr);
  const Source cotangent = CotangentSource(arena, s, {});
  Conv conv(InputGradientJob(s, {}, cotangent, x, nullptr), arena, threads);
  if (s.residual_channels > 0) {
    Conv residual(ResidualGradientJob(s, {}, cotangent, nullptr), arena, threads);
  }
  return Floats(arena);
}

Status Conv1dBlockBwd(const Conv1dBlockShape& s, const Conv1dBlockInputs& in,
                      const Conv1dBlockCotangents& cotangents, const Conv1dBlockGradients& out,
                      void* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  if (s.groups > 0 && in.sums == nullptr) {
    return Status::InvalidArgument("n2m.conv1d_block: sums must be given to the backward pass, got null");
  }
  Arena arena(scratch);
  const Source x = InputSource(arena, s, in, in.sums);
  const Source cotangent = CotangentSource(arena, s, cotangents);
  Conv conv(InputGradientJob(s, in, cotangent, x, out.dx), arena, executor.num_threads());
  conv.Run(executor);
  if (s.residual_channels > 0) {
    Conv residual(ResidualGradientJob(s, in, cotangent, out.dresidual), arena,
                  executor.num_threads());
    residual.Run(executor);
  }
  if (s.groups == 0) return Status::Ok();
  // With P = sum_t du and Q = sum_t du (x - mean) a channel:
  //   doffset = P, dscale = rstd Q, dmean = -rstd sum_c scale P, dvar = -rstd^3 / 2 sum_c scale Q,
  // and from mean = s0 / n, var = s1 / n - mean^2: ds0 = (dmean - 2 mean dvar) / n, ds1 = dvar / n.
  const int64_t width = s.channels / s.groups;
  const double n = GroupCount(s);
  for (int64_t i = 0; i < s.batch * s.groups; ++i) {
    const int64_t b = i / s.groups;
    if (s.time == 0) {
      out.dsums[2 * i] = out.dsums[2 * i + 1] = 0.0f;
      std::fill_n(out.dscale + i * width, width, 0.0f);
      std::fill_n(out.doffset + i * width, width, 0.0f);
      continue;
    }
    const Moments m(in.sums + 2 * i, n, s.eps);
    double mean_pull = 0, spread_pull = 0;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t c = i % s.groups * width + j;
      const double p = conv.Total(b, 0, c), q = conv.Total(b, 1, c);
      out.doffset[b * s.channels + c] = static_cast<float>(p);
      out.dscale[b * s.channels + c] = static_cast<float>(m.rstd * q);
      mean_pull += in.scale[c] * p;
      spread_pull += in.scale[c] * q;
    }
    const double dmean = -m.rstd * mean_pull;
    const double dvar = m.variance > 0 ? -0.5 * m.rstd * m.rstd * m.rstd * spread_pull : 0.0;
    out.dsums[2 * i] = static_cast<float>((dmean - 2.0 * m.mean * dvar) / n);
    out.dsums[2 * i + 1] = static_cast<float>(dvar / n);
  }
  return Status::Ok();
}
