// The gradient of a weight on the matrix tiles of AMX:
//   dweight[k][c][d] = sum over clips and rows t of h[t * stride + k - pad][c] dy[t][d],
// where channels take the place of the rows of a product and time that of the channels.
//
// Time is cut in segments, taken in waves. First a wave's h is laid out channel by channel, one
// plane for each phase of the stride, so that 32 times in a row make a row of a tile, and tap k
// reads from k / stride further on; its dy in pairs of times. Then a task takes 32 channels of h by
// 32 of dy and goes through the wave in short runs of time, which stay in L1 for all taps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels/common/nontemporal.h"
#include "kernels/conv1d_block/conv1d_block_amx.h"
#include "kernels/conv1d_block/conv1d_block_weight.h"

namespace n2m::conv1d_block {

// Sixteen times by sixteen channels, turned and cut in pieces.
struct AmxTurnArgs {
  bool native;        // RoundsToBFloat16()
  const float* from;  // time i, channel c: from + i from_stride + c
  int64_t from_stride;
  int64_t channels;  // a multiple of 16
  int pieces;
  uint16_t* to[2];  // channel c: to + c to_stride
  int64_t to_stride;
};

template <int L>
struct AmxTurn {
  static N2M_INLINE void Run(const AmxTurnArgs& a) {
    if constexpr (L == 16) {
      if (a.native) return Rounded<true>(a);
    }
    Rounded<false>(a);
  }
  template <bool kNative>
  static N2M_INLINE void Rounded(const AmxTurnArgs& a) {
    for (int64_t c = 0; c < a.channels; c += L) {
      for (int64_t i = 0; i < kAmxRows; i += L) {
        Float<L> block[L];
        for (int j = 0; j < L; ++j) block[j] = Load<L>(a.from + (i + j) * a.from_stride + c);
        simd::Transpose<L>(block);
        for (int j = 0; j < L; ++j) {
          Float<L> rest = block[j];
          for (int p = 0; p < a.pieces; ++p) {
            const auto half = NextPiece<kNative, L>(&rest);
            std::memcpy(a.to[p] + (c + j) * a.to_stride + i, &half, sizeof(half));
          }
        }
      }
    }
  }
};
N2M_MULTI_ISA(AmxTurn, AmxTurnArgs)

class AmxWeight {
 public:
  AmxWeight(const WeightJob& job, Arena& arena, int threads)
      : job_(job),
        clip_segments_(CeilDiv(job.rows, kSegment)),
        segment_(clip_segments_ > 0 ? RoundUp(CeilDiv(job.rows, clip_segments_), kAmxDepth) : 0),
        segments_(job.batch * clip_segments_),
        steps_(segment_ / kAmxDepth),
        down_(CeilDiv(job.h.channels, kAmxPanel)),
        across_(CeilDiv(job.dy.channels, kAmxPanel)),
        h_pieces_(AmxPieces(job.h.dtype)),
        dy_pieces_(AmxPieces(job.dy.dtype)),
        run_steps_(job.taps > 1 ? kRunSteps / std::max(h_pieces_, dy_pieces_) : steps_) {
    if (segments_ == 0) return;
    times_ = RoundUp(segment_ + (job.taps - 1) / job.step, kAmxRows) + kAmxDepth;
    plane_ = down_ * kAmxPanel * times_;
    h_segment_ = job.step * plane_;
    dy_step_ = dy_pieces_ * kAmxStep;
    const int64_t bytes = 2 * (h_pieces_ * h_segment_ + across_ * steps_ * dy_step_);
    const int64_t most = std::max<int64_t>(kWaveBytes / bytes, 1);
    wave_segments_ = CeilDiv(segments_, CeilDiv(segments_, most));
    for (int p = 0; p < h_pieces_; ++p) {
      h_[p] = arena.Take<uint16_t>(wave_segments_ * h_segment_);
    }
    dy_ = arena.Take<uint16_t>(across_ * wave_segments_ * steps_ * dy_step_);
    if (job.dbias != nullptr) {
      totals_ = arena.Take<double>((wave_segments_ * steps_ + 1) * across_ * kAmxPanel);
    }
    h_stride_ = down_ * kAmxPanel + kAmxRows;
    dy_stride_ = across_ * kAmxPanel + kAmxRows;
    stream_ =
        wave_segments_ == segments_ && job.taps * job.h.channels * job.dy.channels >= kStreamFloats;
    if (stream_ || segments_ * steps_ <= kFewSteps) {
      wide_ = std::clamp<int64_t>(down_ * across_ / kTasks, 1, std::min(across_, kWide));
    }
    groups_ = CeilDiv(across_, wide_);
    slots_ = std::make_unique<Slots>(
        arena, threads,
        std::max({wide_ * job.taps * kAmxPanel * kAmxPanel, kAmxRows * job.step * h_stride_,
                  kAmxDepth * dy_stride_}));
  }

  void Run(Executor& executor) {
    const int64_t outs = job_.dy.channels, bias_size = across_ * kAmxPanel;
    if (segments_ == 0) {
      std::fill_n(job_.dweight, job_.taps * job_.h.channels * outs, 0.0f);
      if (job_.dbias != nullptr) std::fill_n(job_.dbias, outs, 0.0f);
      return;
    }
    double* bias = totals_;
    if (bias != nullptr) std::fill_n(bias, bias_size, 0.0);
    const int64_t blocks = times_ / kAmxRows;
    for (int64_t first = 0; first < segments_; first += wave_segments_) {
      const int64_t count = std::min(wave_segments_, segments_ - first);
      ParallelFor(executor, count * (blocks + steps_), 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t segment = i / (blocks + steps_), part = i % (blocks + steps_);
          if (part < blocks) {
            FillRows(first, segment, part, lease.data());
          } else {
            FillCotangent(first, segment, part - blocks, lease.data());
          }
        }
      });
      ParallelFor(executor, down_ * groups_, 1, [&](int64_t begin, int64_t end) {
        Slots::Lease lease(*slots_);
        const int64_t sums = job_.taps * kAmxPanel * kAmxPanel;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t down = i / groups_, across = across_ * (i % groups_) / groups_;
          const int64_t blocks_here = across_ * (i % groups_ + 1) / groups_ - across;
          for (int64_t q = 0; q < blocks_here; ++q) {
            Multiply(count, down, across + q, lease.data() + q * sums);
          }
          Write(first, down, across, blocks_here, lease.data());
        }
        if (stream_) nontemporal::Fence();
      });
      for (int64_t part = 1; bias != nullptr && part <= count * steps_; ++part) {
        for (int64_t d = 0; d < outs; ++d) bias[d] += totals_[part * bias_size + d];
      }
    }
    for (int64_t d = 0; bias != nullptr && d < outs; ++d) {
      job_.dbias[d] = static_cast<float>(bias[d]);
    }
  }

 private:
  static constexpr int64_t kSegment = 1024;
  static constexpr int64_t kWaveBytes = 4 << 20;
  // Of 32 times, for one piece: 32 channels of h and of dy take 16 KiB each.
  static constexpr int64_t kRunSteps = 8;
  static constexpr int64_t kMostSteps = kSegment / kAmxDepth;
  static constexpr int64_t kStreamFloats = 2 << 20;
  // Where writing a large result is the limit, memory likes long runs: a task takes several blocks
  // side by side, as long as there are kTasks.
  static constexpr int64_t kFewSteps = 8, kWide = 8, kTasks = 16;

  int64_t Item(int64_t segment) const { return segment / clip_segments_; }
  int64_t Row(int64_t segment) const { return segment % clip_segments_ * segment_; }

  // Sixteen times of every phase.
  void FillRows(int64_t first, int64_t segment, int64_t block, float* buffer) {
    const int64_t channels = job_.h.channels, step = job_.step, u = block * kAmxRows;
    const int64_t row0 = (Row(first + segment) + u) * step + job_.base;
    if (channels % kAmxPanel != 0) {
      std::fill_n(buffer, kAmxRows * step * h_stride_, 0.0f);
    }
    Fill_Run(
        job_.h.Rows(Item(first + segment), row0, kAmxRows * step, 0, channels, buffer, h_stride_));
    for (int64_t phase = 0; phase < step; ++phase) {
      AmxTurnArgs a = {};
      a.native = RoundsToBFloat16();
      a.from = buffer + phase * h_stride_;
      a.from_stride = step * h_stride_;
      a.channels = down_ * kAmxPanel;
      a.pieces = h_pieces_;
      for (int p = 0; p < h_pieces_; ++p) {
        a.to[p] = h_[p] + segment * h_segment_ + phase * plane_ + u;
      }
      a.to_stride = times_;
      AmxTurn_Run(a);
    }
  }

  // 32 times of dy, zeros beyond the last, and their totals.
  void FillCotangent(int64_t first, int64_t segment, int64_t step, float* buffer) {
    const int64_t outs = job_.dy.channels, row = Row(first + segment) + step * kAmxDepth;
    const int64_t rows = std::clamp<int64_t>(job_.rows - row, 0, kAmxDepth);
    if (rows > 0) {
      Fill_Run(job_.dy.Rows(Item(first + segment), row, rows, 0, outs, buffer, dy_stride_));
    }
    AmxPackArgs a = {};
    a.native = RoundsToBFloat16();
    a.from = buffer;
    a.dtype = DType::kFloat32;
    a.panels = across_;
    a.ins = rows;
    a.outs = outs;
    a.in_stride = dy_stride_;
    a.out_stride = 1;
    a.pieces = dy_pieces_;
    a.to = dy_ + (segment * steps_ + step) * dy_step_;
    a.to_panel = wave_segments_ * steps_ * dy_step_;
    AmxPack_Run(a);
    if (totals_ == nullptr) return;
    double* totals = totals_ + (segment * steps_ + step + 1) * across_ * kAmxPanel;
    std::fill_n(totals, across_ * kAmxPanel, 0.0);
    Totals_Run({buffer, DType::kFloat32, rows, outs, totals, nullptr, dy_stride_});
  }

  // A wave's part of dweight[:, 32 channels, 32 channels].
  void Multiply(int64_t count, int64_t down, int64_t across, float* sums) {
    AmxSession session;
    constexpr float kZero[kAmxPanel] = {};
    const int64_t c0 = down * kAmxPanel;
    int64_t offset[kMostSteps];
    AmxArgs a = {};
    a.rows = std::min(kAmxPanel, job_.h.channels - c0);
    a.row_stride = times_;
    a.offset = offset;
    a.a_pieces = h_pieces_;
    a.b_pieces = dy_pieces_;
    a.c_stride = kAmxPanel;
    for (int64_t segment = 0; segment < count; ++segment) {
      for (int64_t s = 0; s < steps_; s += run_steps_) {
        a.steps = std::min(run_steps_, steps_ - s);
        a.b = dy_ + ((across * wave_segments_ + segment) * steps_ + s) * dy_step_;
        for (int p = 0; p < h_pieces_; ++p) {
          a.a[p] = h_[p] + segment * h_segment_ + c0 * times_;
        }
        for (int64_t k = 0; k < job_.taps; ++k) {
          for (int64_t i = 0; i < a.steps; ++i) {
            offset[i] = k % job_.step * plane_ + k / job_.step + (s + i) * kAmxDepth;
          }
          const bool begins = segment == 0 && s == 0;
          a.c = sums + k * kAmxPanel * kAmxPanel;
          a.init = begins ? kZero : a.c;
          a.init_stride = begins ? 0 : kAmxPanel;
          AmxProduct_Run(a);
        }
      }
    }
  }

  // Puts or adds blocks side by side where they belong.
  void Write(int64_t first, int64_t down, int64_t across, int64_t blocks, const float* sums) const {
    const int64_t channels = job_.h.channels, outs = job_.dy.channels;
    const int64_t c0 = down * kAmxPanel, height = std::min(kAmxPanel, channels - c0);
    for (int64_t k = 0; k < job_.taps; ++k) {
      for (int64_t c = 0; c < height; ++c) {
        for (int64_t q = 0; q < blocks; ++q) {
          const int64_t d0 = (across + q) * kAmxPanel, width = std::min(kAmxPanel, outs - d0);
          const float* from = sums + ((q * job_.taps + k) * kAmxPanel + c) * kAmxPanel;
          float* to = job_.dweight + (k * channels + c0 + c) * outs + d0;
          if (first == 0 && stream_) {
            nontemporal::Copy(from, width, to);
          } else if (first == 0) {
            std::copy_n(from, width, to);
          } else {
            for (int64_t d = 0; d < width; ++d) to[d] += from[d];
          }
        }
      }
    }
  }

  WeightJob job_;
  int64_t clip_segments_, segment_, segments_, steps_;  // steps of 32 times in a segment
  int64_t down_, across_;                               // blocks of 32 channels
  int h_pieces_, dy_pieces_;
  int64_t run_steps_;
  int64_t wave_segments_ = 0;
  int64_t times_ = 0, plane_ = 0, h_segment_ = 0, dy_step_ = 0;
  int64_t h_stride_ = 0, dy_stride_ = 0;
  uint16_t *h_[2] = {nullptr, nullptr}, *dy_ = nullptr;
  double* totals_ = nullptr;
  bool stream_ = false;            // a large result, written once
  int64_t wide_ = 1, groups_ = 0;  // blocks of a task
  std::unique_ptr<Slots> slots_;
};

}  // namespace n2m::conv1d_block
