// The formulas of one value, the ranks behind a percentile, and what the launchers of every
// platform refuse.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/common/host_device.h"
#include "noise2music/ancestral_step.h"
#include "runtime/sizes.h"

namespace n2m::ancestral_step {

enum Coefficient { kW, kInvAlpha, kSigmaOverAlpha, kCX, kC0, kCNoise, kPercentile, kFloor };

// eps = w eps_cond + (1 - w) eps_uncond
N2M_HOST_DEVICE float Guide(const float* coefficients, float eps_cond, float eps_uncond) {
  return coefficients[kW] * eps_cond + (1.0f - coefficients[kW]) * eps_uncond;
}

// x_0 = x_t / alpha_t - (sigma_t / alpha_t) eps
N2M_HOST_DEVICE float EstimateValue(const float* coefficients, float x_t, float eps) {
  return coefficients[kInvAlpha] * x_t - coefficients[kSigmaOverAlpha] * eps;
}

// clip(x_0, -s, s) floor / s, where gain = floor / s. The comparisons are written so that a NaN, in
// x_0 or in s, stays.
N2M_HOST_DEVICE float ClipValue(float x_0, float s, float gain) {
  x_0 = x_0 < -s ? -s : x_0;
  return (x_0 > s ? s : x_0) * gain;
}

// c_x x_t + c_0 x_0; the noise is added where there is some.
N2M_HOST_DEVICE float UpdateValue(const float* coefficients, float x_t, float x_0) {
  return coefficients[kCX] * x_t + coefficients[kC0] * x_0;
}

// |x| as an unsigned integer: it orders as |x| does, NaN last.
constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

// The percentile of n values is low_weight times the one of rank `low` and high_weight times that
// of rank `high`, as jnp.percentile(..., method="linear") computes it in float32.
struct Ranks {
  int64_t low, high;
  float low_weight, high_weight;
};

N2M_HOST_DEVICE int64_t RankAt(float place, float last, int64_t n) {
  const float inside = place < 0.0f ? 0.0f : place > last ? last : place;
  const int64_t rank = static_cast<int64_t>(inside);
  return rank < n - 1 ? rank : n - 1;
}

N2M_HOST_DEVICE Ranks RanksOf(int64_t n, float percentile) {
  const float last = static_cast<float>(n) - 1.0f;
  const float place = percentile * 0.01f * last;  // XLA divides by 100 so
  const float low = floorf(place), high = ceilf(place);
  return {RankAt(low, last, n), RankAt(high, last, n), 1.0f - (place - low), place - low};
}

// s = max(percentile, floor); a NaN stays one.
N2M_HOST_DEVICE float LimitOf(float percentile, float floor) {
  return percentile < floor ? floor : floor != floor ? floor : percentile;
}

inline Status Check(const AncestralStepShape& s) {
  if (s.B < 0 || s.T < 0 || s.C < 0) {
    return Status::InvalidArgument(
        "n2m.ancestral_step: sizes must be at least 0, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C));
  }
  if (!ProductFits({s.B, s.T, s.C})) {
    return Status::InvalidArgument(
        "n2m.ancestral_step: x_t must be of at most 2^58 elements, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C));
  }
  return Status::Ok();
}

}  // namespace n2m::ancestral_step
