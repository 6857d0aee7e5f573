// fft_upsample against the matrix of the resampling in float64, and its transpose.
#include <limits>

#include "check.h"

namespace {

using namespace n2m_test;
using n2m::FftUpsampleShape;

constexpr double kPi = 3.14159265358979323846;

FftUpsampleShape Shape(int64_t B, int64_t T, int64_t C, int64_t up, int64_t down, DType dtype) {
  FftUpsampleShape s;
  s.B = B;
  s.T = T;
  s.C = C;
  s.up = up;
  s.down = down;
  s.dtype = dtype;
  return s;
}

// A[m, t] = (1 / T) (1 + sum over 0 < k <= K / 2 of 2 cos(2 pi k (m / T' - t / T))), K = min(T,
// T'). The bin at K / 2 stands for both signs: on the way up half of it goes to each, on the way
// down the pair is added into one.
std::vector<double> Matrix(int64_t T, int64_t out) {
  std::vector<double> a(out * T);
  const int64_t K = std::min(T, out);
  for (int64_t m = 0; m < out; ++m) {
    for (int64_t t = 0; t < T; ++t) {
      double sum = 1;
      for (int64_t k = 1; 2 * k <= K; ++k) {
        const double place =
            static_cast<double>(k * m % out) / out - static_cast<double>(k * t % T) / T;
        double value = std::cos(2 * kPi * place);
        if (2 * k == K && out > T) {
          value = 0.5 * std::cos(2 * kPi * k * m / out) * std::cos(kPi * t);
        } else if (2 * k == K) {
          value = std::cos(kPi * m) * std::cos(2 * kPi * k * t / T);
        }
        sum += 2 * value;
      }
      a[m * T + t] = sum / T;
    }
  }
  return a;
}

void Compare(const FftUpsampleShape& s, int64_t offset, n2m::Executor& executor) {
  const int64_t out = s.T * s.up / s.down, columns = s.B * s.C;
  Random random(static_cast<uint64_t>(s.T * 31 + s.up));
  const Array x = Array::Normal(random, columns * s.T, s.dtype, offset);
  const Array dy = Array::Normal(random, columns * out, s.dtype, offset);
  Array y(columns * out, s.dtype, offset), dx(columns * s.T, s.dtype, offset);
  Array scratch(n2m::FftUpsampleScratch(s, executor.num_threads()));
  const std::string name = Name("fft", s.B, s.T, s.C, s.up, s.down, offset);
  ExpectOk(n2m::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), executor), name);
  ExpectOk(n2m::FftUpsampleBwd(s, dy.data(), dx.data(), scratch.floats(), executor), name);
  std::vector<double> a, right(columns * out), back(columns * s.T);
  if (s.up == s.down) {
    right = x.Wide();
    back = dy.Wide();
  } else {
    a = Matrix(s.T, out);
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t b = i / s.C, c = i % s.C;
      for (int64_t m = 0; m < out; ++m) {
        for (int64_t t = 0; t < s.T; ++t) {
          const int64_t at = (b * s.T + t) * s.C + c, to = (b * out + m) * s.C + c;
          right[to] += a[m * s.T + t] * x[at];
          back[at] += a[m * s.T + t] * dy[to];
        }
      }
    }
  }
  const double tolerance = s.dtype == DType::kFloat32 ? 3e-6 : 1e-2;
  ExpectClose(y, right, tolerance, name + " y");
  ExpectClose(dx, back, tolerance, name + " dx");
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
