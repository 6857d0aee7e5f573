// The CUDA kernels of fft_upsample, run by the emulation, against the matrix of the resampling in
// float64.
#include "kernels/fft_upsample/fft_upsample_cuda.cu"

#include "tests/cpp/kernels/fft_upsample_problem.h"

namespace {

using namespace n2m_test;
namespace cuda = n2m::cuda;

void Compare(const FftUpsampleShape& s, int64_t offset) {
  Array scratch(cuda::FftUpsampleScratch(s));
  ExpectRight(
      s, offset,
      [&](const Array& x, Array& y) {
        return cuda::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), nullptr);
      },
      [&](const Array& dy, Array& dx) {
        return cuda::FftUpsampleBwd(s, dy.data(), dx.data(), scratch.floats(), nullptr);
      });
}

void TestValues() {
  struct Ratio {
    int64_t up, down;
  };
  for (const Ratio r : {Ratio{5, 1}, {3, 2}, {2, 1}, {2, 3}, {1, 4}, {6, 4}, {3, 3}}) {
    // Every radix, mixed lengths, and primes.
    for (const int64_t unit : {1, 2, 3, 4, 5, 9, 11, 16, 25, 30, 64, 101}) {
      const int64_t T = unit * (r.down == 4 && r.up == 6 ? 2 : r.down);
      if (T * r.up / r.down > 330) continue;
      Compare(Shape(1, T, 1, r.up, r.down, DType::kFloat32), unit % 4);
    }
  }
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) Compare(Shape(2, 36, 3, 2, 1, dtype), 1);
}

// The roots of unity of the longest length of the cascade, and the digits of the quarter.
void TestRoots() {
  for (const int64_t n : {int64_t{1}, int64_t{3}, int64_t{8}, int64_t{706560}}) {
    for (int64_t k = 0; k < n; k += 1 + n / 1009) {
      const cuda::Complex root = cuda::Root(k, n);
      const double angle = -2 * kPi * static_cast<double>(k) / static_cast<double>(n);
      Expect(std::fabs(root.re - std::cos(angle)) < 2e-7, Name("cosine", k, n));
      Expect(std::fabs(root.im - std::sin(angle)) < 2e-7, Name("sine", k, n));
    }
  }
}

void TestEmpty() {
  Compare(Shape(0, 8, 2, 5, 1, DType::kFloat32), 0);
  Compare(Shape(2, 0, 2, 5, 1, DType::kFloat32), 0);
  Compare(Shape(2, 8, 0, 5, 1, DType::kFloat32), 0);
}

// A column is the same in any batch.
void TestBatchChangesNothing() {
  const FftUpsampleShape s = Shape(3, 46, 2, 5, 1, DType::kFloat32);
  const FftUpsampleShape one = Shape(1, 46, 2, 5, 1, DType::kFloat32);
  Random random(5);
  const Array x = Array::Normal(random, 3 * 92);
  Array y(3 * 460), alone(460), scratch(cuda::FftUpsampleScratch(s));
  ExpectOk(cuda::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), nullptr), "batch");
  ExpectOk(cuda::FftUpsampleFwd(one, x.floats() + 92, alone.data(), scratch.floats(), nullptr),
           "alone");
  for (int64_t i = 0; i < 460; ++i) Expect(alone[i] == y[460 + i], Name("alone", i));
}

void TestRefused() {
  float none = 0;
  const FftUpsampleShape s = Shape(1, kHuge, 1, 2, 1, DType::kFloat32);
  ExpectRefused(cuda::FftUpsampleFwd(s, &none, &none, &none, nullptr), "fft_upsample", "past 2^31");
  const FftUpsampleShape odd = Shape(1, 8, 1, 1, 3, DType::kFloat32);
  ExpectRefused(cuda::FftUpsampleFwd(odd, &none, &none, &none, nullptr), "fft_upsample", "8 / 3");
}

}  // namespace

int main() {
  TestValues();
  TestRoots();
  TestEmpty();
  TestBatchChangesNothing();
  TestRefused();
  return Report("fft_upsample on emulated CUDA");
}
