#include "pipeline/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace n2m {
namespace {

constexpr double kBeta0 = 1e-4, kBeta1 = 0.02;  // Ho et al. 2020, over 1000 steps
constexpr double kDetail = 0.1;                 // d of "sample"

}  // namespace

std::pair<double, double> AlphaSigma(Schedule schedule, double t) {
  if (schedule == Schedule::kLinear) {
    const double log_alpha2 = -1000.0 * (kBeta0 * t + 0.5 * (kBeta1 - kBeta0) * t * t);
    return {std::exp(0.5 * log_alpha2), std::sqrt(-std::expm1(log_alpha2))};
  }
  const double b = std::atan(std::exp(-10.0)), a = std::atan(std::exp(10.0)) - b;
  return {std::cos(a * t + b), std::sin(a * t + b)};
}

std::vector<double> DenoisingTimes(const Segments& segments, int64_t steps) {
  std::vector<double> times = {0.0}, knots = {0.0};
  for (const auto& segment : segments) {
    times.push_back(times.back() + segment.first);
    knots.push_back(knots.back() + static_cast<double>(segment.second));
  }
  const double total = knots.back(), whole = times.back();
  for (double& knot : knots) knot /= total;
  for (double& time : times) time /= whole;
  const int64_t n = steps > 0 ? steps : static_cast<int64_t>(total);
  std::vector<double> t;
  for (int64_t i = 0; i <= n; ++i) {
    const double at = static_cast<double>(i) / static_cast<double>(n);
    size_t k = 1;
    while (k + 1 < knots.size() && knots[k] <= at) ++k;
    t.push_back(times[k - 1] +
                (times[k] - times[k - 1]) / (knots[k] - knots[k - 1]) * (at - knots[k - 1]));
  }
  t.front() = 0.0;
  t.back() = 1.0;
  return t;
}

bool Table8(const std::string& stage, const std::string& name, Segments* out) {
  Segments front;
  int64_t uniform = 0;
  if (stage == "waveform_generator") {
    front = {{0.01, 200}, {0.04, 400}, {0.15, 200}, {0.3, 150}, {0.5, 50}};
    uniform = 1000;
  } else if (stage == "spectrogram_generator") {
    front = {{0.01, 400}, {0.04, 800}, {0.15, 400}, {0.3, 300}, {0.5, 100}};
    uniform = 1000;
  } else if (stage == "spectrogram_vocoder") {
    front = {{0.05, 50}, {0.15, 30}, {0.3, 15}, {0.5, 5}};
    uniform = 100;
  } else if (stage == "waveform_cascader" || stage == "super_resolution_cascader") {
    front = {{0.05, 400}, {0.15, 200}, {0.3, 150}, {0.5, 50}};
    uniform = stage == "waveform_cascader" ? 800 : 0;
  }
  if (name == "front_heavy" || name == "back_heavy") {
    if (name == "back_heavy") std::reverse(front.begin(), front.end());
    *out = front;
    return !front.empty();
  }
  if (name != "uniform" || uniform == 0) return false;
  *out = {{1.0, uniform}};
  return true;
}

std::vector<Step> Steps(const std::vector<double>& times, const SamplerSettings& settings) {
  const size_t count = times.size() - 1;
  std::vector<Step> steps(count);
  // Half of lambda at t, for DPM-Solver++(2M).
  const auto half_lambda = [&](double t) {
    const auto [alpha, sigma] = AlphaSigma(settings.schedule, t);
    return std::log(alpha / sigma);
  };
  for (size_t n = 0; n < count; ++n) {
    const double t = times[count - n], s = times[count - n - 1];
    const auto [a_t, s_t] = AlphaSigma(settings.schedule, t);
    const auto [a_s, s_s] = AlphaSigma(settings.schedule, s);
    const double root = a_t * s_s / (s_t * a_s), ratio = root * root;  // e^{lambda_t - lambda_s}
    double c_x = 0.0, c_0 = 0.0, c_p = 0.0, c_noise = 0.0;
    if (settings.sampler == SamplerKind::kAncestral) {
      c_x = a_s / a_t * ratio;
      c_0 = (1.0 - ratio) * a_s;
      const double sigma_ts = std::sqrt(1.0 - ratio) * s_t, sigma_st = std::sqrt(1.0 - ratio) * s_s;
      c_noise = s == 0.0
                    ? 0.0
                    : std::pow(sigma_st, 1.0 - settings.gamma) * std::pow(sigma_ts, settings.gamma);
    } else {
      c_x = s_s / s_t;
      c_0 = a_s - s_s * a_t / s_t;
      if (settings.sampler == SamplerKind::kDpm && n > 0 &&
          s > 0.0) {  // the last step is first order
        const double before = half_lambda(t) - half_lambda(times[count - n + 1]);
        const double r = before / (half_lambda(s) - half_lambda(t));
        c_p = -c_0 / (2.0 * r);
        c_0 *= 1.0 + 1.0 / (2.0 * r);
      }
    }
    steps[n] = {static_cast<float>(t),
                {static_cast<float>(settings.guidance), static_cast<float>(1.0 / a_t),
                 static_cast<float>(s_t / a_t), static_cast<float>(c_x), static_cast<float>(c_0),
                 static_cast<float>(c_noise), static_cast<float>(settings.clip_percentile),
                 static_cast<float>(settings.clip_floor)},
                static_cast<float>(c_p)};
  }
  return steps;
}

// alpha_t and sigma_t as the networks were trained with them, from a float32 angle: near t = 1 the
// cosine schedule has alpha = 4.5e-5, the difference of two angles of 1.57.
static std::pair<double, double> TrainedAlphaSigma(Schedule schedule, float t) {
  if (schedule == Schedule::kLinear) return AlphaSigma(schedule, static_cast<double>(t));
  const double b = std::atan(std::exp(-10.0));
  const float a = static_cast<float>(std::atan(std::exp(10.0)) - b), turned = a * t;
  const double angle = static_cast<double>(turned + static_cast<float>(b));
  return {std::cos(angle), std::sin(angle)};
}

ToNoise OutputToNoise(Prediction prediction, Schedule schedule, float t) {
  if (prediction == Prediction::kNoise) return {0.0f, 1.0f};
  const auto [alpha, sigma] = TrainedAlphaSigma(schedule, t);
  if (prediction == Prediction::kVelocity)
    return {static_cast<float>(sigma), static_cast<float>(alpha)};
  const double n = alpha * kDetail * alpha * kDetail + sigma * sigma;
  return {static_cast<float>(sigma / n), static_cast<float>(-alpha / std::sqrt(n))};
}

}  // namespace n2m
