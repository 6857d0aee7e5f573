// The band that a condition lacks, put back: python/noise2music/missing_band.py in C++. Formulas
// stand there.
#pragma once

#include <cstdint>
#include <vector>

#include "noise2music/executor.h"
#include "pipeline/config.h"

namespace n2m {

// c at condition_rate -> what the network is shown of it, at the same rate, and the level g at the
// target's rate.
void LevelCondition(const StageConfig& config, const std::vector<float>& c, Executor& executor,
                    std::vector<float>* shown, std::vector<float>* level);

// x <- U c + D^-1 (g x): x, up and level at the target's rate, of the length of x at least.
void AddMissingBand(const StageConfig& config, const std::vector<float>& up,
                    const std::vector<float>& level, Executor& executor, std::vector<float>* x);

}  // namespace n2m
