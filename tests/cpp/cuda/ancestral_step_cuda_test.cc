// The CUDA kernels of ancestral_step, run by the emulation, against the formula in float64.
#include "kernels/ancestral_step/ancestral_step_cuda.cu"

#include <limits>

#include "tests/cpp/kernels/ancestral_step_problem.h"

namespace {

using namespace n2m_test;
namespace cuda = n2m::cuda;

Outputs Run(const Problem& p, int64_t offset) {
  Outputs o(p.s.B * p.s.T * p.s.C, offset);
  Array scratch(cuda::AncestralStepScratch(p.s));
  ExpectOk(cuda::AncestralStepFwd(p.s, p.x_t->floats(), p.cond->data(),
                                  p.uncond ? p.uncond->data() : nullptr,
                                  p.z ? p.z->floats() : nullptr, p.coefficients, o.x_s.floats(),
                                  o.x_0.floats(), scratch.floats(), nullptr),
           p.Describe());
  return o;
}

void TestValues() {
  for (const double percentile : {0.0, 50.0, 99.5, 100.0}) {
    for (const int64_t T : {1, 16, 33, 1000}) {
      for (int which = 0; which < 4; ++which) {
        const DType dtype = T % 2 ? DType::kFloat32 : DType::kBFloat16;
        const int64_t C = T % 2 ? 3 : 4;  // single values, packs
        const Problem p(2, T, C, dtype, percentile, which & 1, which & 2, which % 2);
        ExpectRight(p, Run(p, which % 2));
      }
    }
  }
  const Problem past_a_chunk(2, 4099, 1, DType::kFloat32, 99.5, true, true, 0);
  ExpectRight(past_a_chunk, Run(past_a_chunk, 0));
}

// Many equal values, and neighbouring ranks in different bins of every digit.
void TestTies() {
  for (const double second : {1.5, 1.5 + 0x1p-23, 1.5 + 0x1p-13, 3.0, 1e30}) {
    for (const double percentile : {40.0, 49.9, 50.0, 50.1, 60.0}) {
      Problem p(1, 1001, 1, DType::kFloat32, percentile, false, false, 0);
      p.coefficients[1] = 1;  // x_0 = x_t
      p.coefficients[2] = 0;
      for (int64_t i = 0; i < 1001; ++i) p.x_t->Set(i, i % 2 ? second : -1.5);
      ExpectRight(p, Run(p, 0));
    }
  }
}

void TestEmpty() {
  for (int64_t zero = 0; zero < 3; ++zero) {
    const Problem p(zero == 0 ? 0 : 2, zero == 1 ? 0 : 4, zero == 2 ? 0 : 3, DType::kFloat32, 99.5,
                    true, true, 0);
    ExpectRight(p, Run(p, 0));
  }
}

// Threads may run in any order, and a clip may stand in any batch.
void TestBitEqual() {
  const Problem p(3, 5000, 1, DType::kFloat32, 99.5, true, true, 0);
  const Outputs once = Run(p, 0);
  cuda_emulation::fiber_order = cuda_emulation::Order::kBackward;
  const Outputs again = Run(p, 0);
  cuda_emulation::fiber_order = cuda_emulation::Order::kForward;
  Expect(once.x_s.SameBits(again.x_s) && once.x_0.SameBits(again.x_0), "threads backwards");
  AncestralStepShape last = p.s;
  last.B = 1;
  Outputs alone(5000);
  Array scratch(cuda::AncestralStepScratch(last));
  const int64_t at = 2 * 5000;
  ExpectOk(
      cuda::AncestralStepFwd(last, p.x_t->floats() + at, p.cond->floats() + at,
                             p.uncond->floats() + at, p.z->floats() + at, p.coefficients,
                             alone.x_s.floats(), alone.x_0.floats(), scratch.floats(), nullptr),
      "alone");
  for (int64_t i = 0; i < 5000; ++i) {
    Expect(alone.x_s[i] == once.x_s[at + i] && alone.x_0[i] == once.x_0[at + i], "alone");
  }
}

// With clipping one NaN makes its clip NaN and no other; without, it stays where it is.
void TestNotFinite() {
  for (const double percentile : {0.0, 99.5}) {
    Problem p(2, 50, 2, DType::kFloat32, percentile, true, true, 0);
    p.x_t->Set(13, std::numeric_limits<double>::quiet_NaN());
    const Outputs o = Run(p, 0);
    for (int64_t i = 0; i < o.x_0.size(); ++i) {
      const bool bad = percentile > 0 ? i < 100 : i == 13;
      Expect(std::isnan(o.x_0[i]) == bad && std::isnan(o.x_s[i]) == bad, Name("NaN", i));
    }
    p.x_t->Set(13, std::numeric_limits<double>::infinity());
    (void)Run(p, 0);  // must not loop or crash
  }
}

void TestRefused() {
  AncestralStepShape s;
  s.B = 1;
  s.T = kHuge;
  s.C = 1;
  float none[8] = {};
  ExpectRefused(cuda::AncestralStepFwd(s, none, none, none, none, none, none, none, none, nullptr),
                "ancestral_step", "a clip past 2^31");
}

}  // namespace

int main() {
  TestValues();
  TestTies();
  TestEmpty();
  TestBitEqual();
  TestNotFinite();
  TestRefused();
  return Report("ancestral_step on emulated CUDA");
}
