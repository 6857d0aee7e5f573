#include "pipeline/missing_band.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/common/simd.h"

namespace n2m {
namespace {

constexpr double kFloor = 0.2, kFilterSeconds = 0.032, kWindowSeconds = 0.03, kRamp = 0.9;
constexpr double kPi = 3.14159265358979323846;

// numpy.hanning(count)[i].
double Hann(int64_t i, int64_t count) {
  return 0.5 - 0.5 * std::cos(2.0 * kPi * static_cast<double>(i) / static_cast<double>(count - 1));
}

// The spectrum in dB at f Hz: linear between its points, constant beyond.
double Decibels(const std::vector<std::pair<double, double>>& spectrum, double f) {
  if (f <= spectrum.front().first) return spectrum.front().second;
  for (size_t i = 1; i < spectrum.size(); ++i) {
    const auto [below, low] = spectrum[i - 1];
    const auto [above, high] = spectrum[i];
    if (f <= above) return low + (high - low) * (f - below) / (above - below);
  }
  return spectrum.back().second;
}

// Taps whose gain is S^sign, from `band_from` Hz on (0: everywhere).
std::vector<float> Equaliser(const StageConfig& config, int64_t rate, double band_from,
                             double sign) {
  const int64_t half = std::llrint(kFilterSeconds / 2.0 * static_cast<double>(rate)),
                count = 2 * half + 1;
  std::vector<double> gain(static_cast<size_t>(half) + 1);
  for (int64_t k = 0; k <= half; ++k) {
    const double hz =
        static_cast<double>(k) * static_cast<double>(rate) / static_cast<double>(count);
    double g = std::pow(10.0, sign * Decibels(config.missing_band, hz) / 20.0);
    if (band_from > 0.0) g *= std::clamp((hz / band_from - kRamp) / (1.0 - kRamp), 0.0, 1.0);
    gain[static_cast<size_t>(k)] = g;
  }
  std::vector<double> cosine(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    cosine[static_cast<size_t>(i)] =
        std::cos(2.0 * kPi * static_cast<double>(i) / static_cast<double>(count));
  }
  std::vector<float> taps(static_cast<size_t>(count));
  for (int64_t n = 0; n <= half; ++n) {
    double sum = gain[0];
    for (int64_t k = 1; k <= half; ++k) {
      sum += 2.0 * gain[static_cast<size_t>(k)] * cosine[static_cast<size_t>(k * n % count)];
    }
    const double tap = sum / static_cast<double>(count) * Hann(half + n + 1, count + 2);
    taps[static_cast<size_t>(half + n)] = taps[static_cast<size_t>(half - n)] =
        static_cast<float>(tap);
  }
  return taps;
}

struct FilterArgs {
  const float *x, *taps;  // x begins half the taps before the first output
  int64_t count, begin, end;
  float* y;
};

// y[i] = sum_j taps[j] x[i + j]. Four vectors at a time, so that the sums do not wait for each
// other.
template <int L>
struct Filter {
  static N2M_INLINE void Run(const FilterArgs& a) {
    int64_t i = a.begin;
    for (; i + 4 * L <= a.end; i += 4 * L) {
      simd::Float<L> sum[4] = {};
      for (int64_t j = 0; j < a.count; ++j) {
        for (int v = 0; v < 4; ++v) sum[v] += a.taps[j] * simd::Load<L>(a.x + i + j + v * L);
      }
      for (int v = 0; v < 4; ++v) simd::Store<L>(a.y + i + v * L, sum[v]);
    }
    for (; i < a.end; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < a.count; ++j) sum += a.taps[j] * a.x[i + j];
      a.y[i] = sum;
    }
  }
};
N2M_MULTI_ISA(Filter, FilterArgs)

// Symmetric taps around each sample; silence beyond the ends.
std::vector<float> Filtered(const std::vector<float>& x, const std::vector<float>& taps,
                            Executor& executor) {
  const size_t half = taps.size() / 2;
  std::vector<float> padded(x.size() + taps.size(), 0.0f), y(x.size());
  std::copy(x.begin(), x.end(), padded.begin() + static_cast<std::ptrdiff_t>(half));
  ParallelFor(executor, static_cast<int64_t>(x.size()), 8192, [&](int64_t begin, int64_t end) {
    Filter_Run(
        {padded.data(), taps.data(), static_cast<int64_t>(taps.size()), begin, end, y.data()});
  });
  return y;
}

}  // namespace

void LevelCondition(const StageConfig& config, const std::vector<float>& c, Executor& executor,
                    std::vector<float>* shown, std::vector<float>* level) {
  const int64_t rate = config.condition_rate;
  *shown = Filtered(c, Equaliser(config, rate, 0.0, -1.0), executor);
  const int64_t count = std::llrint(kWindowSeconds * static_cast<double>(rate)) / 2 * 2 + 1;
  std::vector<float> window(static_cast<size_t>(count), 1.0f), square(shown->size());
  double sum = 0.0;
  for (int64_t i = 0; i < count && count > 1; ++i) sum += Hann(i, count);
  for (int64_t i = 0; i < count && count > 1; ++i)
    window[static_cast<size_t>(i)] = static_cast<float>(Hann(i, count) / sum);
  for (size_t i = 0; i < square.size(); ++i) square[i] = (*shown)[i] * (*shown)[i];
  std::vector<float> low = Filtered(square, window, executor);
  for (size_t i = 0; i < low.size(); ++i) {
    low[i] =
        static_cast<float>(std::sqrt(std::max(static_cast<double>(low[i]), 0.0) + kFloor * kFloor));
    (*shown)[i] /= low[i];
  }
  // To the target's rate: linear between the two nearest.
  const int64_t n = static_cast<int64_t>(c.size());
  const double step = static_cast<double>(rate) / static_cast<double>(config.rate);
  level->resize(static_cast<size_t>(n * config.rate / rate));
  for (size_t i = 0; i < level->size(); ++i) {
    const double place = std::min(static_cast<double>(i) * step, static_cast<double>(n - 1));
    const int64_t below = std::min(static_cast<int64_t>(place), std::max<int64_t>(n - 2, 0));
    const int64_t above = std::min(below + 1, n - 1);
    const double weight = place - static_cast<double>(below);
    (*level)[i] =
        static_cast<float>((1.0 - weight) * static_cast<double>(low[static_cast<size_t>(below)]) +
                           weight * static_cast<double>(low[static_cast<size_t>(above)]));
  }
}

void AddMissingBand(const StageConfig& config, const std::vector<float>& up,
                    const std::vector<float>& level, Executor& executor, std::vector<float>* x) {
  for (size_t i = 0; i < x->size(); ++i) (*x)[i] *= level[i];
  const double band_from = static_cast<double>(config.condition_rate) / 2.0;
  *x = Filtered(*x, Equaliser(config, config.rate, band_from, 1.0), executor);
  for (size_t i = 0; i < x->size(); ++i) (*x)[i] += up[i];
}

}  // namespace n2m
