// A problem of ancestral_step, and its solution in float64, the percentile by a sort; for the tests
// of every platform.
#pragma once

#include "check.h"

namespace n2m_test {

using n2m::AncestralStepShape;

struct Problem {
  Problem(int64_t B, int64_t T, int64_t C, DType dtype, double percentile, bool guided, bool noisy,
          int64_t offset)
      : random(static_cast<uint64_t>(B * 7 + T * 3 + C)) {
    s.B = B;
    s.T = T;
    s.C = C;
    s.eps_dtype = dtype;
    const int64_t n = B * T * C;
    x_t = std::make_unique<Array>(Array::Normal(random, n, DType::kFloat32, offset));
    cond = std::make_unique<Array>(Array::Normal(random, n, dtype, offset));
    if (guided) uncond = std::make_unique<Array>(Array::Normal(random, n, dtype, offset));
    if (noisy) z = std::make_unique<Array>(Array::Normal(random, n, DType::kFloat32, offset));
    const float values[] = {3, 1.41f, 1, 0.9f, 0.1f, 0.4f, static_cast<float>(percentile), 1};
    std::copy(values, values + 8, coefficients);
    if (!guided) coefficients[0] = 1;
    if (!noisy) coefficients[5] = 0;
  }
  std::string Describe() const {
    return Name("step", s.B, s.T, s.C, static_cast<int>(s.eps_dtype), coefficients[6],
                uncond != nullptr, z != nullptr);
  }

  Random random;
  AncestralStepShape s;
  std::unique_ptr<Array> x_t, cond, uncond, z;
  float coefficients[8];
};

struct Outputs {
  explicit Outputs(int64_t n, int64_t offset = 0)
      : x_s(n, DType::kFloat32, offset), x_0(n, DType::kFloat32, offset) {}
  Array x_s, x_0;
};

// What a launcher made of a problem against the formula.
inline void ExpectRight(const Problem& p, const Outputs& o) {
  const float* c = p.coefficients;
  const int64_t n = p.s.T * p.s.C;
  std::vector<double> x_s(p.s.B * n), x_0(p.s.B * n);
  for (int64_t b = 0; b < p.s.B; ++b) {
    std::vector<double> magnitudes;
    for (int64_t i = b * n; i < (b + 1) * n; ++i) {
      double eps = (*p.cond)[i];
      if (p.uncond) eps = c[0] * eps + (1.0 - c[0]) * (*p.uncond)[i];
      x_0[i] = c[1] * (*p.x_t)[i] - c[2] * eps;
      magnitudes.push_back(std::fabs(x_0[i]));
    }
    double limit = -1;
    if (c[6] > 0 && n > 0) {
      std::sort(magnitudes.begin(), magnitudes.end());
      const double place = c[6] / 100.0 * (n - 1);
      const int64_t low = static_cast<int64_t>(place), high = std::min(low + 1, n - 1);
      limit = magnitudes[low] + (place - low) * (magnitudes[high] - magnitudes[low]);
      limit = std::max<double>(limit, c[7]);
    }
    for (int64_t i = b * n; i < (b + 1) * n; ++i) {
      if (limit > 0) x_0[i] = std::clamp(x_0[i], -limit, limit) * (c[7] / limit);
      x_s[i] = c[3] * (*p.x_t)[i] + c[4] * x_0[i] + (p.z ? c[5] * (*p.z)[i] : 0.0);
    }
  }
  // The rank's float32 fraction keeps few digits where two neighbours lie far apart.
  const double tolerance = n < 64 ? 2e-4 : 3e-5;
  ExpectClose(o.x_0, x_0, tolerance, p.Describe() + " x_0");
  ExpectClose(o.x_s, x_s, tolerance, p.Describe() + " x_s");
}

}  // namespace n2m_test
