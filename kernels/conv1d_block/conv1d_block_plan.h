// Which algorithm computes a pass of conv1d_block.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "noise2music/conv1d_block.h"
#include "noise2music/types.h"
#include "runtime/isa.h"

namespace n2m::conv1d_block {

// Toom-Cook F(outs, taps) by points = outs + taps - 1 products a tile of outs rows; on the matrix
// tiles of AMX; or direct.
struct Form {
  int outs = 0, taps = 0, points = 0;
  bool amx = false;
  bool direct() const { return outs == 0 && !amx; }
};

// The largest form within the error budget: 3e-5 of the largest result for float32. The rounding of
// a bfloat16 result is 4e-3, so larger tiles cost no accuracy there.
inline Form FormOf(int64_t taps, DType dtype) {
  const bool coarse = dtype == DType::kBFloat16;
  switch (taps) {
    case 3:
      return coarse ? Form{8, 3, 10} : Form{6, 3, 8};
    case 5:
      return coarse ? Form{8, 5, 12} : Form{6, 5, 10};
    case 7:
      return coarse ? Form{8, 7, 14} : Form{6, 7, 12};
    case 9:
      return coarse ? Form{6, 9, 14} : Form{4, 9, 12};
    default:
      return {};
  }
}

inline bool ParseAlgorithm(const std::string& name, Conv1dAlgorithm* algorithm) {
  if (name == "auto") return *algorithm = Conv1dAlgorithm::kAuto, true;
  if (name == "direct") return *algorithm = Conv1dAlgorithm::kDirect, true;
  if (name == "toom_cook") return *algorithm = Conv1dAlgorithm::kToomCook, true;
  if (name == "amx") return *algorithm = Conv1dAlgorithm::kAmx, true;
  return false;
}

// NOISE2MUSIC_CONV1D says what "auto" means; read once.
inline Conv1dAlgorithm AutoAlgorithm() {
  static const Conv1dAlgorithm algorithm = [] {
    Conv1dAlgorithm named = Conv1dAlgorithm::kAuto;
    const char* name = std::getenv("NOISE2MUSIC_CONV1D");
    if (name != nullptr) ParseAlgorithm(name, &named);
    return named;
  }();
  return algorithm;
}

inline Conv1dAlgorithm Wanted(const Conv1dBlockShape& s) {
  const bool named = s.algorithm != Conv1dAlgorithm::kAuto;
  const Conv1dAlgorithm algorithm = named ? s.algorithm : AutoAlgorithm();
  const bool lacking = algorithm == Conv1dAlgorithm::kAmx && ActiveIsa() != Isa::kAmx;
  return lacking ? Conv1dAlgorithm::kAuto : algorithm;
}

// A convolution from `in` to `out` channels. Measured (README): transforms pay from 32 channels and
// 16 rows on. The batch has no say, so that a clip comes out the same in any batch.
inline Form PlanVectors(const Conv1dBlockShape& s, int64_t in, int64_t out) {
  constexpr int64_t kLeastChannels = 32, kLeastRows = 16;
  const Conv1dAlgorithm algorithm = Wanted(s);
  if (s.stride != 1 || algorithm == Conv1dAlgorithm::kDirect) return {};
  if (algorithm == Conv1dAlgorithm::kAuto &&
      (in < kLeastChannels || out < kLeastChannels || s.time < kLeastRows)) {
    return {};
  }
  return FormOf(s.kernel, s.dtype);
}

inline int64_t RowsOf(const Conv1dBlockShape& s) { return (s.time + s.stride - 1) / s.stride; }

// Tiles take any stride and kernel. With bfloat16 they are sixteen times as fast as vectors.
// float32 takes three products and rounding on the way: no faster than Toom-Cook, but up to twice
// as fast as the direct algorithm, so it goes there where no Toom-Cook form applies, the channels
// are many and the rows of a clip fill the tiles (README). Fewer channels than fill a tile are left
// to the vectors.
inline bool TakesAmx(const Conv1dBlockShape& s, int64_t in, int64_t out, const Form& otherwise) {
  if (ActiveIsa() != Isa::kAmx) return false;
  const Conv1dAlgorithm algorithm = Wanted(s);
  if (algorithm != Conv1dAlgorithm::kAuto) return algorithm == Conv1dAlgorithm::kAmx;
  const bool coarse = s.dtype == DType::kBFloat16;
  const int64_t least_channels = coarse ? 32 : 128, least_rows = s.kernel == 1 ? 24 : 32;
  return in >= least_channels && out >= least_channels &&
         (coarse || (otherwise.direct() && RowsOf(s) >= least_rows));
}
inline Form Plan(const Conv1dBlockShape& s, int64_t in, int64_t out) {
  const Form vectors = PlanVectors(s, in, out);
  return TakesAmx(s, in, out, vectors) ? Form{0, 0, 0, true} : vectors;
}

// Where a few rows of all clips together read a large weight, reading it is the limit. The direct
// product does so at the speed of memory; the transform of the weights does not (README). This is
// the one choice that depends on the batch.
inline bool WeightsAreTheLimit(const Conv1dBlockShape& s) {
  constexpr int64_t kMostRows = 32;
  const int64_t least_weights = s.kernel == 1 ? 1 << 20 : 2 << 20;
  return Wanted(s) == Conv1dAlgorithm::kAuto && !Plan(s, s.channels, s.out_channels).amx &&
         s.batch * RowsOf(s) <= kMostRows &&
         s.kernel * s.channels * s.out_channels >= least_weights;
}
inline Form PlanForward(const Conv1dBlockShape& s) {
  return WeightsAreTheLimit(s) ? Form{} : Plan(s, s.channels, s.out_channels);
}

inline Form PlanInputGradient(const Conv1dBlockShape& s) {
  return Plan(s, s.out_channels, s.channels);
}
inline Form PlanWeightGradient(const Conv1dBlockShape& s) {
  return Plan(s, s.channels, s.out_channels);
}
// The residual's product has a single tap, which no transform makes cheaper.
inline Form PlanResidual(const Conv1dBlockShape& s) {
  return TakesAmx(s, s.residual_channels, s.out_channels, {}) ? Form{0, 0, 0, true} : Form{};
}

inline std::string Describe(const Form& form) {
  if (form.amx) return "amx, tiles of bfloat16";
  if (form.points == 0) return "direct";
  char text[80];
  std::snprintf(text, sizeof(text), "toom_cook F(%d, %d), %d points, %.2f times fewer products",
                form.outs, form.taps, form.points,
                static_cast<double>(form.outs) * form.taps / form.points);
  return text;
}
// The gradient of a weight has the roles of outputs and taps exchanged.
inline std::string DescribeWeight(const Form& form) {
  return Describe({form.taps, form.outs, form.points, form.amx});
}

}  // namespace n2m::conv1d_block
