// A problem of fft_upsample against the matrix of the resampling in float64, and its transpose; for
// the tests of every platform.
#pragma once

#include "check.h"

namespace n2m_test {

using n2m::FftUpsampleShape;

constexpr double kPi = 3.14159265358979323846;

inline FftUpsampleShape Shape(int64_t B, int64_t T, int64_t C, int64_t up, int64_t down,
                              DType dtype) {
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
inline std::vector<double> Matrix(int64_t T, int64_t out) {
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

// What the launchers make of a problem against the matrix: forward(x, y), backward(dy, dx), each a
// Status.
template <class Forward, class Backward>
void ExpectRight(const FftUpsampleShape& s, int64_t offset, const Forward& forward,
                 const Backward& backward) {
  const int64_t out = s.T * s.up / s.down, columns = s.B * s.C;
  Random random(static_cast<uint64_t>(s.T * 31 + s.up));
  const Array x = Array::Normal(random, columns * s.T, s.dtype, offset);
  const Array dy = Array::Normal(random, columns * out, s.dtype, offset);
  Array y(columns * out, s.dtype, offset), dx(columns * s.T, s.dtype, offset);
  const std::string name = Name("fft", s.B, s.T, s.C, s.up, s.down, offset);
  ExpectOk(forward(x, y), name);
  ExpectOk(backward(dy, dx), name);
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

}  // namespace n2m_test
