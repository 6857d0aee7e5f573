// The launchers of fft_upsample for the CPU against the matrix of the resampling in float64.
#include <limits>

#include "fft_upsample_problem.h"

namespace {

using namespace n2m_test;

void Compare(const FftUpsampleShape& s, int64_t offset, n2m::Executor& executor) {
  Array scratch(n2m::FftUpsampleScratch(s, executor.num_threads()));
  ExpectRight(
      s, offset,
      [&](const Array& x, Array& y) {
        return n2m::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), executor);
      },
      [&](const Array& dy, Array& dx) {
        return n2m::FftUpsampleBwd(s, dy.data(), dx.data(), scratch.floats(), executor);
      });
}

void TestValues(n2m::Executor& pool) {
  struct Ratio {
    int64_t up, down;
  };
  for (const Ratio r : {Ratio{5, 1}, {3, 2}, {2, 1}, {7, 1}, {2, 3}, {1, 4}, {6, 4}, {3, 3}}) {
    // Every radix, mixed lengths, eight interleaved transforms, and a prime beyond the radices.
    for (const int64_t unit : {1, 2, 3, 4, 5, 9, 11, 13, 16, 25, 30, 64, 101}) {
      const int64_t T = unit * (r.down == 4 && r.up == 6 ? 2 : r.down);
      if (T * r.up / r.down > 330) continue;
      Compare(Shape(1, T, 1, r.up, r.down, DType::kFloat32), unit % 4, n2m::SerialExecutor());
    }
  }
  for (const int64_t T : {36, 103, 192}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      Compare(Shape(2, T, 3, 2, 1, dtype), 1, pool);
    }
  }
}

void TestEmpty() {
  Compare(Shape(0, 8, 2, 5, 1, DType::kFloat32), 0, n2m::SerialExecutor());
  Compare(Shape(2, 0, 2, 5, 1, DType::kFloat32), 0, n2m::SerialExecutor());
  Compare(Shape(2, 8, 0, 5, 1, DType::kFloat32), 0, n2m::SerialExecutor());
}

void TestThreadsChangeNothing() {
  const FftUpsampleShape s = Shape(2, 9000, 2, 3, 2, DType::kFloat32);
  Random random(5);
  const Array x = Array::Normal(random, s.B * s.T * s.C);
  Array want(s.B * s.T * s.C * 3 / 2), back(x.size());
  for (int threads : {1, 2, 3, 7}) {
    const auto pool = n2m::MakeThreadPool(threads);
    Array scratch(n2m::FftUpsampleScratch(s, threads)), y(want.size()), dx(x.size());
    ExpectOk(n2m::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), *pool), "threads");
    ExpectOk(n2m::FftUpsampleBwd(s, y.data(), dx.data(), scratch.floats(), *pool), "threads");
    Expect(threads == 1 || (y.SameBits(want) && dx.SameBits(back)), Name("bits", threads));
    if (threads == 1) {
      want = std::move(y);
      back = std::move(dx);
    }
  }
}

// One NaN fills its own column, since every output depends on it, and no other.
void TestNotFinite() {
  const FftUpsampleShape s = Shape(1, 40, 3, 5, 1, DType::kFloat32);
  Random random(2);
  Array x = Array::Normal(random, s.T * s.C);
  x.Set(7 * s.C + 1, std::numeric_limits<double>::quiet_NaN());
  Array y(s.T * s.C * s.up), scratch(n2m::FftUpsampleScratch(s, 1));
  ExpectOk(n2m::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), n2m::SerialExecutor()),
           "not finite");
  for (int64_t i = 0; i < y.size(); ++i) {
    // Phase 0 is a copy of the samples: there only the sample itself is NaN.
    const bool copied = i / s.C % s.up == 0 && i / s.C != 7 * s.up;
    Expect(std::isnan(y[i]) == (i % s.C == 1 && !copied), Name("NaN at", i));
  }
}

void TestRefused() {
  const auto refused = [](const FftUpsampleShape& s, const char* what) {
    float none = 0;
    Expect(n2m::FftUpsampleScratch(s, 2) == 0, what);
    ExpectRefused(n2m::FftUpsampleFwd(s, &none, &none, &none, n2m::SerialExecutor()),
                  "fft_upsample", what);
    ExpectRefused(n2m::FftUpsampleBwd(s, &none, &none, &none, n2m::SerialExecutor()),
                  "fft_upsample", what);
  };
  refused(Shape(1, -8, 1, 2, 1, DType::kFloat32), "a negative time");
  refused(Shape(1, 8, 1, 0, 1, DType::kFloat32), "up 0");
  refused(Shape(1, 8, 1, 2, -1, DType::kFloat32), "down -1");
  refused(Shape(1, 8, 1, 1, 3, DType::kFloat32), "8 samples by 1/3");
  refused(Shape(1, kHuge, 1, kHuge, 1, DType::kFloat32), "an output past 2^63");
  refused(Shape(kHuge, 8, kHuge, 2, 1, DType::kFloat32), "an input past 2^63");
}

}  // namespace

int main() {
  const auto pool = n2m::MakeThreadPool(3);
  TestValues(*pool);
  TestEmpty();
  TestThreadsChangeNothing();
  TestNotFinite();
  TestRefused();
  return Report("fft_upsample");
}
