// The scratch of the CUDA targets, for Python: there it is declared as the handler's last result.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "noise2music/noise2music.h"

namespace n2m {

#ifdef N2M_CUDA

using Sizes = std::map<std::string, int64_t>;  // by the names of the fields of the op's shape

inline CombineFilmShape CombineFilmOf(const Sizes& sizes) {
  CombineFilmShape s;
  s.B = sizes.at("B");
  s.T = sizes.at("T");
  s.C = sizes.at("C");
  s.G = sizes.at("G");
  return s;
}

inline int64_t CudaScratch(const std::string& target, const Sizes& sizes) {
  if (target == "n2m_combine_film_fwd") return cuda::CombineFilmFwdScratch(CombineFilmOf(sizes));
  if (target == "n2m_combine_film_bwd") return cuda::CombineFilmBwdScratch(CombineFilmOf(sizes));
  if (target == "n2m_fft_upsample_fwd" || target == "n2m_fft_upsample_bwd") {
    FftUpsampleShape s;
    s.B = sizes.at("B");
    s.T = sizes.at("T");
    s.C = sizes.at("C");
    s.up = sizes.at("up");
    s.down = sizes.at("down");
    return cuda::FftUpsampleScratch(s);
  }
  if (target == "n2m_ancestral_step_fwd") {
    AncestralStepShape s;
    s.B = sizes.at("B");
    s.T = sizes.at("T");
    s.C = sizes.at("C");
    return cuda::AncestralStepScratch(s);
  }
  throw std::invalid_argument("n2m.cuda_scratch: target must be one with scratch, got " + target);
}

#endif

}  // namespace n2m
