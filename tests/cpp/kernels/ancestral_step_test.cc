// ancestral_step against the formula in float64, the percentile by a sort.
#include <limits>

#include "check.h"

namespace {

using namespace n2m_test;
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

Outputs Run(const Problem& p, int64_t offset, n2m::Executor& executor) {
  Outputs o(p.s.B * p.s.T * p.s.C, offset);
  Array scratch(n2m::AncestralStepScratch(p.s));
  ExpectOk(n2m::AncestralStepFwd(p.s, p.x_t->floats(), p.cond->data(),
                                 p.uncond ? p.uncond->data() : nullptr,
                                 p.z ? p.z->floats() : nullptr, p.coefficients, o.x_s.floats(),
                                 o.x_0.floats(), scratch.floats(), executor),
           p.Describe());
  return o;
}

void Compare(const Problem& p, int64_t offset, n2m::Executor& executor) {
  const Outputs o = Run(p, offset, executor);
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

void TestValues(n2m::Executor& pool) {
  for (const double percentile : {0.0, 50.0, 99.5, 100.0}) {
    for (const int64_t T : {1, 2, 15, 16, 17, 33, 1000}) {
      for (int which = 0; which < 4; ++which) {
        const DType dtype = T % 2 ? DType::kFloat32 : DType::kBFloat16;
        Compare(Problem(2, T, 3, dtype, percentile, which & 1, which & 2, which), which,
                which & 1 ? pool : n2m::SerialExecutor());
      }
    }
  }
  Compare(Problem(2, 16385, 1, DType::kFloat32, 99.5, true, true, 1), 1, pool);  // past a chunk
}

void TestEmpty() {
  for (int64_t zero = 0; zero < 3; ++zero) {
    Compare(Problem(zero == 0 ? 0 : 2, zero == 1 ? 0 : 4, zero == 2 ? 0 : 3, DType::kFloat32, 99.5,
                    true, true, 0),
            0, n2m::SerialExecutor());
  }
}

void TestThreadsChangeNothing() {
  const Problem p(3, 40000, 1, DType::kFloat32, 99.5, true, true, 0);
  const Outputs one = Run(p, 0, n2m::SerialExecutor());
  for (int threads : {2, 3, 7}) {
    const auto pool = n2m::MakeThreadPool(threads);
    const Outputs other = Run(p, 0, *pool);
    Expect(one.x_s.SameBits(other.x_s) && one.x_0.SameBits(other.x_0), Name("bits", threads));
  }
}

// With clipping one NaN makes its clip NaN and no other; without, it stays where it is.
void TestNotFinite() {
  for (const double percentile : {0.0, 99.5}) {
    Problem p(2, 50, 2, DType::kFloat32, percentile, true, true, 0);
    p.x_t->Set(13, std::numeric_limits<double>::quiet_NaN());
    const Outputs o = Run(p, 0, n2m::SerialExecutor());
    for (int64_t i = 0; i < o.x_0.size(); ++i) {
      const bool bad = percentile > 0 ? i < 100 : i == 13;
      Expect(std::isnan(o.x_0[i]) == bad && std::isnan(o.x_s[i]) == bad, Name("NaN", i));
    }
    p.x_t->Set(13, std::numeric_limits<double>::infinity());  // must not loop or crash
    (void)Run(p, 0, n2m::SerialExecutor());
  }
}

void TestRefused() {
  for (int which = 0; which < 3; ++which) {
    AncestralStepShape s;
    s.B = which == 0 ? -1 : kHuge;
    s.T = which == 1 ? -1 : kHuge;
    s.C = 2;
    float none[8] = {};
    (void)n2m::AncestralStepScratch(s);
    ExpectRefused(n2m::AncestralStepFwd(s, none, none, none, none, none, none, none, none,
                                        n2m::SerialExecutor()),
                  "ancestral_step", Name("sizes", which));
  }
}

}  // namespace

int main() {
  const auto pool = n2m::MakeThreadPool(3);
  TestValues(*pool);
  TestEmpty();
  TestThreadsChangeNothing();
  TestNotFinite();
  TestRefused();
  return Report("ancestral_step");
}
