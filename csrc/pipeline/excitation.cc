#include "pipeline/excitation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "pipeline/config.h"
#include "pipeline/spectrum.h"

namespace n2m {
namespace {

constexpr double kRate = 16000.0, kFloorDb = -80.0;
constexpr int kRounds = 16, kUpdates = 10;
constexpr float kMomentum = 0.99f;

// W: triangles of height 1, evenly spaced on the mel scale; each kept as its bins that are not
// zero.
struct Triangle {
  int64_t first = 0;
  std::vector<float> weight;
  float area = 0.0f;
};

struct Filters {
  std::vector<Triangle> channels;
  std::vector<float> reach;  // (kBins): the sum over the channels
};

const Filters& MelFilters() {
  static const Filters filters = [] {
    const auto to_mel = [](double f) { return 2595.0 * std::log10(1.0 + f / 700.0); };
    std::vector<double> hz;
    const double low = to_mel(30.0), high = to_mel(kRate / 2);
    const double step = (high - low) / static_cast<double>(kMelChannels + 1);
    for (int64_t i = 0; i < kMelChannels + 2; ++i) {
      const double edge = i == kMelChannels + 1 ? high : static_cast<double>(i) * step + low;
      hz.push_back(700.0 * (std::pow(10.0, edge / 2595.0) - 1.0));
    }
    const double narrowest = kRate / static_cast<double>(kWindow);
    Filters f;
    f.reach.assign(static_cast<size_t>(kBins), 0.0f);
    for (size_t c = 0; c < static_cast<size_t>(kMelChannels); ++c) {
      const double rise = std::max(hz[c + 1] - hz[c], narrowest),
                   fall = std::max(hz[c + 2] - hz[c + 1], narrowest);
      Triangle t;
      for (int64_t k = 0; k < kBins; ++k) {
        const double bin = static_cast<double>(k) * kRate / static_cast<double>(kWindow);
        const double height =
            std::min(1.0 - (hz[c + 1] - bin) / rise, 1.0 - (bin - hz[c + 1]) / fall);
        const float w = static_cast<float>(std::clamp(height, 0.0, 1.0));
        if (w == 0.0f) continue;
        if (t.weight.empty()) t.first = k;
        t.weight.push_back(w);
        t.area += w;
        f.reach[static_cast<size_t>(k)] += w;
      }
      f.channels.push_back(std::move(t));
    }
    return f;
  }();
  return filters;
}

// out (513) = sum_c level (80) W.
void Spread(const Filters& filters, const float* level, float* out) {
  std::fill_n(out, kBins, 0.0f);
  for (size_t c = 0; c < filters.channels.size(); ++c) {
    const Triangle& t = filters.channels[c];
    for (size_t k = 0; k < t.weight.size(); ++k)
      out[static_cast<size_t>(t.first) + k] += level[c] * t.weight[k];
  }
}

}  // namespace

void LowPassInTime(int64_t frames, int64_t channels, int64_t order, float* mel) {
  std::vector<float> taps(static_cast<size_t>(order) + 1);
  double binomial = std::pow(0.5, static_cast<double>(order));
  for (int64_t j = 0; j <= order; ++j) {
    taps[static_cast<size_t>(j)] = static_cast<float>(binomial);
    binomial = binomial * static_cast<double>(order - j) / static_cast<double>(j + 1);
  }
  const std::vector<float> x(mel, mel + frames * channels);
  for (int64_t i = 0; i < frames; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      float sum = 0.0f;
      for (int64_t j = 0; j <= order; ++j) {
        const int64_t from = std::clamp<int64_t>(i + j - order / 2, 0, frames - 1);
        sum += taps[static_cast<size_t>(j)] * x[static_cast<size_t>(from * channels + c)];
      }
      mel[i * channels + c] = sum;
    }
  }
}

void Magnitudes(const float* mel, int64_t frames, float* s, Executor& executor) {
  const Filters& filters = MelFilters();
  const float scale = [] {
    double sum = 0.0;
    for (const float w : HannWindow()) sum += static_cast<double>(w);
    return static_cast<float>(sum / 2.0);
  }();
  ParallelFor(executor, frames, 16, [&](int64_t begin, int64_t end) {
    float wanted[kMelChannels], level[kMelChannels], spread[kBins];
    for (int64_t f = begin; f < end; ++f) {
      float* row = s + f * kBins;
      for (int64_t c = 0; c < kMelChannels; ++c) {
        const float db = static_cast<float>(kFloorDb / 2) * (1.0f - mel[f * kMelChannels + c]);
        const float amplitude = static_cast<float>(std::pow(10.0, static_cast<double>(db) / 20.0));
        wanted[c] = std::max(amplitude - 1e-4f, 1e-8f);  // what is at the floor is silence
        level[c] = wanted[c] / filters.channels[static_cast<size_t>(c)].area;
      }
      Spread(filters, level, row);
      for (int64_t k = 0; k < kBins; ++k) {
        const float reach = std::max(filters.reach[static_cast<size_t>(k)], 1e-3f);
        row[k] = std::max(row[k] / std::max(reach, 0.3f), 1e-10f);
      }
      for (int update = 0; update < kUpdates; ++update) {
        for (size_t c = 0; c < filters.channels.size(); ++c) {
          const Triangle& t = filters.channels[c];
          float heard = 0.0f;
          for (size_t k = 0; k < t.weight.size(); ++k)
            heard += row[static_cast<size_t>(t.first) + k] * t.weight[k];
          level[c] = wanted[c] / std::max(heard, 1e-12f);
        }
        Spread(filters, level, spread);
        for (int64_t k = 0; k < kBins; ++k)
          row[k] *= spread[k] / std::max(filters.reach[static_cast<size_t>(k)], 1e-3f);
      }
      for (int64_t k = 0; k < kBins; ++k) row[k] *= scale;
    }
  });
}

void ShapeExcitation(const float* mel, int64_t frames, float* samples, Executor& executor) {
  const size_t n = static_cast<size_t>(frames * kBins);
  std::vector<float> wanted(n), re(n), im(n), before_re(n), before_im(n);
  std::vector<float> parts(static_cast<size_t>(frames * kWindow));
  Magnitudes(mel, frames, wanted.data(), executor);
  Stft(samples, frames, re.data(), im.data(), executor);
  const auto rows = [&](const std::function<void(int64_t, int64_t)>& body) {
    ParallelFor(executor, static_cast<int64_t>(n), 16 * kBins, body);
  };
  const auto with_magnitudes = [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const size_t i = static_cast<size_t>(at);
      const float scale = wanted[i] / std::max(std::sqrt(re[i] * re[i] + im[i] * im[i]), 1e-9f);
      re[i] *= scale;
      im[i] *= scale;
    }
  };
  for (int round = 0; round < kRounds; ++round) {
    rows(with_magnitudes);
    Istft(re.data(), im.data(), frames, parts.data(), samples, executor);
    Stft(samples, frames, re.data(), im.data(), executor);
    rows([&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const size_t i = static_cast<size_t>(at);
        const float new_re = re[i], new_im = im[i];
        if (round > 0) {
          re[i] += kMomentum * (new_re - before_re[i]);
          im[i] += kMomentum * (new_im - before_im[i]);
        }
        before_re[i] = new_re;
        before_im[i] = new_im;
      }
    });
  }
  rows(with_magnitudes);
  Istft(re.data(), im.data(), frames, parts.data(), samples, executor);
}

bool LimitPeak(int64_t n, bool normalize, float* samples) {
  float peak = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(samples[i])) return false;
    peak = std::max(peak, std::fabs(samples[i]));
  }
  const double ceiling = std::pow(10.0, -1.0 / 20.0);
  if (peak == 0.0f || (static_cast<double>(peak) <= ceiling && !normalize)) return true;
  const float gain = static_cast<float>(std::min(ceiling / static_cast<double>(peak), 100.0));
  for (int64_t i = 0; i < n; ++i) samples[i] *= gain;
  return true;
}

}  // namespace n2m
