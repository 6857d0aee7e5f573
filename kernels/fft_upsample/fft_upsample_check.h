// What the launchers of every platform refuse.
#pragma once

#include <string>

#include "noise2music/fft_upsample.h"
#include "runtime/sizes.h"

namespace n2m::fft_upsample {

inline Status Check(const FftUpsampleShape& s) {
  if (s.B < 0 || s.T < 0 || s.C < 0) {
    return Status::InvalidArgument(
        "n2m.fft_upsample: sizes must be at least 0, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C));
  }
  if (s.up < 1 || s.down < 1) {
    return Status::InvalidArgument("n2m.fft_upsample: up and down must be at least 1, got up=" +
                                   std::to_string(s.up) + " down=" + std::to_string(s.down));
  }
  if (!ProductFits({s.B, s.T, s.C, s.up})) {
    return Status::InvalidArgument(
        "n2m.fft_upsample: B T C up must be at most 2^58, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C) + " up=" + std::to_string(s.up));
  }
  if (s.T * s.up % s.down != 0) {
    return Status::InvalidArgument(
        "n2m.fft_upsample: T * up must be divisible by down, got T=" + std::to_string(s.T) +
        " up=" + std::to_string(s.up) + " down=" + std::to_string(s.down));
  }
  return Status::Ok();
}

}  // namespace n2m::fft_upsample
