// Noise schedules, step lists and the coefficients of a step:
// python/noise2music/{schedules,sampling}.py in C++, in float64 like them. The formulas and their
// sources stand there.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/config.h"

namespace n2m {

// alpha_t and sigma_t for t in [0, 1].
std::pair<double, double> AlphaSigma(Schedule schedule, double t);

using Segments = std::vector<std::pair<double, int64_t>>;  // (total time, steps)

// 0 = t_0 < ... < t_N = 1 of Table 8's segments; steps > 0 rescales them to N = steps.
std::vector<double> DenoisingTimes(const Segments& segments, int64_t steps);

// One of Table 8's lists: "front_heavy", "back_heavy", "uniform". False where the stage has none of
// this name.
bool Table8(const std::string& stage, const std::string& name, Segments* out);

// One step, from t = 1 down to 0.
struct Step {
  float t;
  float row[8];  // for AncestralStepFwd: w, 1/alpha_t, sigma_t/alpha_t, c_x, c_0, c_noise, p, floor
  float c_p;     // of the x_0 before, "dpm++" alone
};

struct SamplerSettings {
  Schedule schedule = Schedule::kLinear;
  SamplerKind sampler = SamplerKind::kAncestral;
  double gamma = 0.0, guidance = 1.0, clip_percentile = 0.0, clip_floor = 1.0;
};

std::vector<Step> Steps(const std::vector<double>& times, const SamplerSettings& settings);

// The two numbers that turn a network's output into noise: eps = of_x x_t + of_output F
// (diffusion.to_noise).
struct ToNoise {
  float of_x, of_output;
};
ToNoise OutputToNoise(Prediction prediction, Schedule schedule, float t);

}  // namespace n2m
