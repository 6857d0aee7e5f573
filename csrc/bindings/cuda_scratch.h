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

inline Conv1dBlockShape Conv1dBlockOf(const Sizes& sizes) {
  const auto dtype = [&](const char* name) { return static_cast<DType>(sizes.at(name)); };
  Conv1dBlockShape s;
  s.batch = sizes.at("batch");
  s.time = sizes.at("time");
  s.channels = sizes.at("channels");
  s.kernel = sizes.at("kernel");
  s.out_channels = sizes.at("out_channels");
  s.stride = sizes.at("stride");
  s.groups = sizes.at("groups");
  s.out_groups = sizes.at("out_groups");
  s.residual_channels = sizes.at("residual_channels");
  s.dtype = dtype("dtype");
  s.weight_dtype = dtype("weight_dtype");
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
  if (target == "n2m_conv1d_block_sums") {
    return cuda::GroupSumsScratch(sizes.at("batch"), sizes.at("time"), sizes.at("channels"),
                                  sizes.at("groups"));
  }
  if (target == "n2m_conv1d_block_fwd") return cuda::Conv1dBlockFwdScratch(Conv1dBlockOf(sizes));
  if (target == "n2m_conv1d_block_bwd") return cuda::Conv1dBlockBwdScratch(Conv1dBlockOf(sizes));
  if (target == "n2m_conv1d_block_bwd_weight") {
    return cuda::Conv1dBlockBwdWeightScratch(Conv1dBlockOf(sizes));
  }
  throw std::invalid_argument("n2m.cuda_scratch: target must be one with scratch, got " + target);
}

#endif

}  // namespace n2m
