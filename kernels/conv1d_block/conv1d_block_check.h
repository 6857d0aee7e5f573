// What the launchers of every backend refuse, and what they agree on.
#pragma once

#include <algorithm>
#include <string>

#include "noise2music/conv1d_block.h"
#include "runtime/sizes.h"

namespace n2m::conv1d_block {

inline Status Check(const Conv1dBlockShape& s) {
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
  const int64_t widest = std::max({s.channels, s.out_channels, s.residual_channels});
  if (!ProductFits({s.batch, s.time, widest}) ||
      !ProductFits({s.kernel, s.channels, s.out_channels}) ||
      !ProductFits({s.residual_channels, s.out_channels}) || !ProductFits({s.stride, s.time})) {
    return Status::InvalidArgument(
        "n2m.conv1d_block: every array must be of at most 2^58 elements, got batch " +
        std::to_string(s.batch) + ", time " + std::to_string(s.time) + ", kernel " +
        std::to_string(s.kernel) + ", channels " + std::to_string(s.channels) + ", out_channels " +
        std::to_string(s.out_channels));
  }
  return Status::Ok();
}

inline Status SumsMissing() {
  return Status::InvalidArgument(
      "n2m.conv1d_block: sums must be given to the backward pass, got null");
}

// Zeros before the first row, as lax pads for SAME.
inline int64_t PadBefore(const Conv1dBlockShape& s) {
  const int64_t out = Conv1dBlockOutTime(s);
  return std::max<int64_t>((out - 1) * s.stride + s.kernel - s.time, 0) / 2;
}

}  // namespace n2m::conv1d_block
