#include "noise2music/ancestral_step.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/ancestral_step/ancestral_step_math.h"
#include "kernels/common/simd.h"

namespace n2m {
namespace {

using namespace ancestral_step;
using simd::BFloat16;

constexpr int64_t kChunk = 16384;  // values of a clip that a task takes: 64 KiB of each array
// The upper 12 bits of |x| (sign, which is 0, exponent and three bits of mantissa) choose the bin:
// eight bins an octave.
constexpr int kBinShift = 20;
constexpr int64_t kBins = 2048;

// Values [0, n) of one clip, from the first.
struct EstimateArgs {
  const float* x_t;
  const void *eps_cond, *eps_uncond;
  const float* coefficients;
  float* x_0;
  int64_t n;
  DType eps_dtype;
};

// x_0 = x_t / alpha_t - (sigma_t / alpha_t) (w eps_cond + (1 - w) eps_uncond)
template <int L, class T>
N2M_INLINE void EstimateValues(const EstimateArgs& a) {
  const T* cond = static_cast<const T*>(a.eps_cond);
  const T* uncond = static_cast<const T*>(a.eps_uncond);
  const float w = a.coefficients[kW], rest = 1.0f - w;
  const float inv_alpha = a.coefficients[kInvAlpha], sigma = a.coefficients[kSigmaOverAlpha];
  int64_t i = 0;
  for (; i + L <= a.n; i += L) {
    simd::Float<L> eps = simd::Load<L>(cond + i);
    if (uncond != nullptr) eps = w * eps + rest * simd::Load<L>(uncond + i);
    simd::Store<L>(a.x_0 + i, inv_alpha * simd::Load<L>(a.x_t + i) - sigma * eps);
  }
  for (; i < a.n; ++i) {
    float eps = simd::LoadOne(cond + i);
    if (uncond != nullptr) eps = Guide(a.coefficients, eps, simd::LoadOne(uncond + i));
    a.x_0[i] = EstimateValue(a.coefficients, a.x_t[i], eps);
  }
}

template <int L>
struct Estimate {
  static N2M_INLINE void Run(const EstimateArgs& a) {
    if (a.eps_dtype == DType::kFloat32) {
      EstimateValues<L, float>(a);
    } else {
      EstimateValues<L, BFloat16>(a);
    }
  }
};
N2M_MULTI_ISA(Estimate, EstimateArgs)

struct UpdateArgs {
  const float *x_t, *z;  // z may be null
  const float* coefficients;
  float *x_0, *x_s;
  float limit;  // s, or negative: no clipping
  int64_t n;
};

// x_0 <- clip(x_0, -s, s) floor / s; x_s = c_x x_t + c_0 x_0 + c_noise z. The comparisons are
// written so that a NaN, in x_0 or in s, stays.
template <int L>
struct Update {
  static N2M_INLINE void Run(const UpdateArgs& a) {
    const float c_x = a.coefficients[kCX], c_0 = a.coefficients[kC0];
    const float c_noise = a.coefficients[kCNoise], s = a.limit;
    const float gain = a.coefficients[kFloor] / s;
    const bool clip = !(s < 0.0f);
    const simd::Float<L> high = simd::Set<L>(s), low = simd::Set<L>(-s);
    int64_t i = 0;
    for (; i + L <= a.n; i += L) {
      simd::Float<L> x_0 = simd::Load<L>(a.x_0 + i);
      if (clip) {
        x_0 = x_0 < low ? low : x_0;
        x_0 = (x_0 > high ? high : x_0) * gain;
        simd::Store<L>(a.x_0 + i, x_0);
      }
      simd::Float<L> x_s = c_x * simd::Load<L>(a.x_t + i) + c_0 * x_0;
      if (a.z != nullptr) x_s = x_s + c_noise * simd::Load<L>(a.z + i);
      simd::Store<L>(a.x_s + i, x_s);
    }
    for (; i < a.n; ++i) {
      float x_0 = a.x_0[i];
      if (clip) a.x_0[i] = x_0 = ClipValue(x_0, s, gain);
      float x_s = UpdateValue(a.coefficients, a.x_t[i], x_0);
      if (a.z != nullptr) x_s = x_s + c_noise * a.z[i];
      a.x_s[i] = x_s;
    }
  }
};
N2M_MULTI_ISA(Update, UpdateArgs)

uint32_t Magnitude(float x) { return simd::BitCast<uint32_t>(x) & kMagnitude; }

// Adds the bins of n values; two tables in turn, since neighbours often meet in one bin.
void Count(const float* x, int64_t n, uint32_t* bins) {
  uint32_t other[kBins] = {};
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    ++bins[Magnitude(x[i]) >> kBinShift];
    ++other[Magnitude(x[i + 1]) >> kBinShift];
  }
  if (i < n) ++bins[Magnitude(x[i]) >> kBinShift];
  for (int64_t bin = 0; bin < kBins; ++bin) bins[bin] += other[bin];
}

// The percentile of |x| over n values as jnp.percentile(..., method="linear") computes it in
// float32, by selection. `bins` counts the values; `work` holds n floats.
float Percentile(const float* x, int64_t n, float percentile, const uint32_t* bins, float* work) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto [low, high, low_weight, high_weight] = RanksOf(n, percentile);
  // The bins that hold the two ranks; between them every bin is empty.
  int64_t first_bin = -1, last_bin = 0, below = 0, seen = 0;
  for (int64_t bin = 0; bin < kBins; ++bin) {
    if (first_bin < 0 && seen + bins[bin] > low) {
      first_bin = bin;
      below = seen;
    }
    seen += bins[bin];
    if (seen > high) {
      last_bin = bin;
      break;
    }
  }
  const uint32_t from = static_cast<uint32_t>(first_bin) << kBinShift;
  const uint32_t width = static_cast<uint32_t>(last_bin - first_bin + 1) << kBinShift;
  // Every value is written, and the cursor moves past the kept ones only: no branch to mispredict.
  int64_t kept = 0;
  bool has_nan = false;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = Magnitude(x[i]);
    work[kept] = simd::BitCast<float>(bits);
    kept += bits - from < width;
    has_nan |= bits > kInfinity;
  }
  if (has_nan) return nan;
  float* const at_low = work + (low - below);
  std::nth_element(work, at_low, work + kept);
  const float low_value = *at_low;
  const float high_value = high == low ? low_value : *std::min_element(at_low + 1, work + kept);
  return low_value * low_weight + high_value * high_weight;
}

int64_t Chunks(const AncestralStepShape& s) { return (s.T * s.C + kChunk - 1) / kChunk; }

}  // namespace

// The bins of every chunk; the candidates of the selection use x_s, which is not written yet.
int64_t AncestralStepScratch(const AncestralStepShape& s) {
  return Check(s).ok() ? s.B * Chunks(s) * kBins : 0;
}

Status AncestralStepFwd(const AncestralStepShape& s, const float* x_t, const void* eps_cond,
                        const void* eps_uncond, const float* z, const float* coefficients,
                        float* x_s, float* x_0, float* scratch, Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  const bool clip = coefficients[kPercentile] > 0.0f;
  const int64_t n = s.T * s.C, chunks = Chunks(s);
  if (s.B * n == 0) return Status::Ok();
  const int64_t eps_bytes = s.eps_dtype == DType::kFloat32 ? 4 : 2;
  const auto eps_at = [&](const void* eps, int64_t at) -> const void* {
    return eps == nullptr ? nullptr : static_cast<const char*>(eps) + at * eps_bytes;
  };
  uint32_t* const bins = reinterpret_cast<uint32_t*>(scratch);
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % chunks * kChunk, at = item / chunks * n + first;
      const int64_t count = std::min(kChunk, n - first);
      Estimate_Run({x_t + at, eps_at(eps_cond, at), eps_at(eps_uncond, at), coefficients, x_0 + at,
                    count, s.eps_dtype});
      if (!clip) continue;
      std::fill(bins + item * kBins, bins + (item + 1) * kBins, 0u);
      Count(x_0 + at, count, bins + item * kBins);
    }
  });
  std::vector<float> limits(static_cast<size_t>(s.B), -1.0f);
  if (clip) {
    ParallelFor(executor, s.B, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        uint32_t* total = bins + b * chunks * kBins;
        for (int64_t i = kBins; i < chunks * kBins; ++i) total[i % kBins] += total[i];
        const float s_b = Percentile(x_0 + b * n, n, coefficients[kPercentile], total, x_s + b * n);
        limits[static_cast<size_t>(b)] = LimitOf(s_b, coefficients[kFloor]);
      }
    });
  }
  ParallelFor(executor, s.B * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / chunks, first = item % chunks * kChunk, at = b * n + first;
      const float* noise = coefficients[kCNoise] == 0.0f || z == nullptr ? nullptr : z + at;
      Update_Run({x_t + at, noise, coefficients, x_0 + at, x_s + at, limits[static_cast<size_t>(b)],
                  std::min(kChunk, n - first)});
    }
  });
  return Status::Ok();
}

}  // namespace n2m
