// The launcher of ancestral_step for the CPU against the formula in float64.
#include <limits>

#include "ancestral_step_problem.h"

namespace {

using namespace n2m_test;

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
  ExpectRight(p, Run(p, offset, executor));
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
