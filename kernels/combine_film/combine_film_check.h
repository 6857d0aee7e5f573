// What the launchers of every platform refuse.
#pragma once

#include <string>

#include "noise2music/combine_film.h"
#include "runtime/sizes.h"

namespace n2m::combine_film {

inline Status Check(const CombineFilmShape& s) {
  if (s.B < 0 || s.T < 0 || s.C < 0 || s.E < 0) {
    return Status::InvalidArgument(
        "n2m.combine_film: sizes must be at least 0, got B=" + std::to_string(s.B) +
        " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C) + " E=" + std::to_string(s.E));
  }
  if (!ProductFits({s.B, s.T, s.C, 2}) || !ProductFits({s.E, s.C, 2}) ||
      !ProductFits({s.B, s.C, 2}) || !ProductFits({s.B, s.E})) {
    return Status::InvalidArgument(
        "n2m.combine_film: every array must be of at most 2^58 elements, got B=" +
        std::to_string(s.B) + " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C) +
        " E=" + std::to_string(s.E));
  }
  if (s.G < 0 || (s.G > 0 && s.C % s.G != 0)) {
    return Status::InvalidArgument(
        "n2m.combine_film: groups must be a positive divisor of C, got " + std::to_string(s.G) +
        " for C=" + std::to_string(s.C));
  }
  return Status::Ok();
}

}  // namespace n2m::combine_film
