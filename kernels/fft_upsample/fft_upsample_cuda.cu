// A complex transform of x, the spectrum padded or cut, and a complex inverse transform, as
// Stockham passes (Govindaraju et al. 2008): a launch a radix, each from one array to another in
// order. The first pass of either transform reads through a View and the last one writes through
// one, so that neither the conversion from x and to y nor the padding of the spectrum is a pass of
// its own. Why not cuFFT: docs/design/cuda.md.
#include <algorithm>
#include <vector>

#include "kernels/common/device.cuh"
#include "kernels/fft_upsample/fft_upsample_check.h"
#include "noise2music/fft_upsample.h"

namespace n2m::cuda {
namespace {

using fft_upsample::Check;

constexpr char kName[] = "n2m.fft_upsample";
constexpr int kThreads = 256;
constexpr int64_t kMostValues = 0x7fffffff;

struct Complex {
  float re, im;
};

__host__ __device__ inline Complex operator+(Complex a, Complex b) {
  return {a.re + b.re, a.im + b.im};
}
__host__ __device__ inline Complex operator-(Complex a, Complex b) {
  return {a.re - b.re, a.im - b.im};
}
__host__ __device__ inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// -i a
__host__ __device__ inline Complex TurnBack(Complex a) { return {a.im, -a.re}; }

// e^{-2 pi i k / n} for 0 <= k < n. The quarter is found in integers, so that the angle that is
// left has the digits of a float32.
__host__ __device__ inline Complex Root(int64_t k, int64_t n) {
  const int64_t quarter = (4 * k >= n) + (4 * k >= 2 * n) + (4 * k >= 3 * n);
  const float angle = 0.5f * (static_cast<float>(4 * k - quarter * n) / static_cast<float>(n));
  float sine, cosine;
  sincospif(angle, &sine, &cosine);
  const Complex turned = {cosine, -sine};
  if (quarter == 0) return turned;
  if (quarter == 1) return TurnBack(turned);
  if (quarter == 2) return {-turned.re, -turned.im};
  return {-turned.im, turned.re};
}

// Transforms of R points, in place.
template <int R>
__host__ __device__ inline void Transform(Complex (&v)[R]) {
  if constexpr (R == 2) {
    const Complex sum = v[0] + v[1];
    v[1] = v[0] - v[1];
    v[0] = sum;
  } else {
    Complex even[R / 2], odd[R / 2];
    for (int i = 0; i < R / 2; ++i) {
      even[i] = v[2 * i];
      odd[i] = v[2 * i + 1];
    }
    Transform(even);
    Transform(odd);
    if constexpr (R == 8) {
      const float half = 0.70710678118654752f;
      odd[1] = Complex{half, -half} * odd[1];
      odd[3] = Complex{-half, -half} * odd[3];
    }
    odd[R / 4] = TurnBack(odd[R / 4]);
    for (int i = 0; i < R / 2; ++i) {
      v[i] = even[i] + odd[i];
      v[i + R / 2] = even[i] - odd[i];
    }
  }
}

// What a pass reads or writes: rows of n values, one a column of x or y.
enum class Kind : int { kComplex, kFloat32, kBFloat16, kSpectrum };

struct View {
  Kind kind;
  void* data;
  int64_t n;
  int64_t channels;   // kFloat32, kBFloat16: the array is (B, n, channels)
  int64_t from_n;     // kSpectrum: the spectrum in `data` has this many bins
  float half_weight;  // kSpectrum: of the bin at half the shorter length
  float gain;         // of what is written to y
};

__device__ inline int64_t Start(const View& v, int64_t row) {
  if (v.kind == Kind::kComplex) return row * v.n;
  if (v.kind == Kind::kSpectrum) return row * v.from_n;
  return row / v.channels * v.n * v.channels + row % v.channels;
}

// Bin k of n of the spectrum whose other length is from_n.
__host__ __device__ inline Complex PaddedBin(const View& v, const Complex* from, int64_t k) {
  const int64_t distance = min(k, v.n - k), shorter = min(v.n, v.from_n);
  if (2 * distance > shorter) return {0, 0};
  if (2 * distance == shorter) return {v.half_weight * from[distance].re, 0};
  return from[k == distance ? k : v.from_n - distance];
}

__device__ inline Complex Read(const View& v, int64_t start, int64_t i) {
  switch (v.kind) {
    case Kind::kComplex:
      return static_cast<const Complex*>(v.data)[start + i];
    case Kind::kFloat32:
      return {static_cast<const float*>(v.data)[start + i * v.channels], 0};
    case Kind::kBFloat16:
      return {ToFloat(static_cast<const BFloat16*>(v.data)[start + i * v.channels]), 0};
    default:
      return PaddedBin(v, static_cast<const Complex*>(v.data) + start, i);
  }
}

__device__ inline void Write(const View& v, int64_t start, int64_t i, Complex value) {
  if (v.kind == Kind::kComplex) {
    static_cast<Complex*>(v.data)[start + i] = value;
  } else if (v.kind == Kind::kFloat32) {
    static_cast<float*>(v.data)[start + i * v.channels] = v.gain * value.re;
  } else {
    static_cast<BFloat16*>(v.data)[start + i * v.channels] = FromFloat<BFloat16>(v.gain * value.re);
  }
}

struct PassArgs {
  View in, out;
  int64_t n, rows;
  int64_t done;  // the product of the radices before this one
  int radix;
  bool inverse;  // by conjugating what goes in and what comes out
};

__device__ inline Complex ConjugateIf(bool condition, Complex a) {
  return {a.re, condition ? -a.im : a.im};
}

// A pass of radix R: a thread a transform of R points.
template <int R>
__global__ void __launch_bounds__(kThreads) n2m_fft_upsample_pass(PassArgs a) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, part = a.n / R;
  if (at >= a.rows * part) return;
  const int64_t row = at / part, j = at % part, k = j % a.done;
  const int64_t from = Start(a.in, row), to = Start(a.out, row), first = (j - k) * R + k;
  Complex v[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    v[r] = ConjugateIf(a.inverse, Read(a.in, from, j + r * part));
    if (r > 0) v[r] = v[r] * Root(k * r, a.done * R);
  }
  Transform(v);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    Write(a.out, to, first + r * a.done, ConjugateIf(a.inverse, v[r]));
  }
}

// A pass of any other radix: a thread a value, by the sum itself.
__global__ void __launch_bounds__(kThreads) n2m_fft_upsample_sum(PassArgs a) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.n) return;
  const int64_t part = a.n / a.radix, row = at / a.n, j = at % part, q = at % a.n / part;
  const int64_t k = j % a.done, size = a.done * a.radix, step = k + q * a.done;
  const int64_t from = Start(a.in, row), to = Start(a.out, row);
  Complex sum = {0, 0};
  int64_t turn = 0;  // step r modulo size
  for (int r = 0; r < a.radix; ++r) {
    sum = sum + ConjugateIf(a.inverse, Read(a.in, from, j + r * part)) * Root(turn, size);
    turn += step;
    if (turn >= size) turn -= size;
  }
  Write(a.out, to, (j - k) * a.radix + step, ConjugateIf(a.inverse, sum));
}

std::vector<int> RadicesOf(int64_t n) {
  std::vector<int> radices;
  for (const int radix : {8, 4, 2}) {
    for (; n % radix == 0; n /= radix) radices.push_back(radix);
  }
  for (int64_t p = 3; p * p <= n; p += 2) {
    for (; n % p == 0; n /= p) radices.push_back(static_cast<int>(p));
  }
  if (n > 1 || radices.empty()) radices.push_back(static_cast<int>(n));
  return radices;
}

Status LaunchPass(const PassArgs& a, void* stream) {
  const auto launch = [&](void (*kernel)(PassArgs), int64_t threads) {
    const dim3 grid(static_cast<unsigned>(CeilDiv(threads, kThreads)));
    return Launch(kName, kernel, grid, dim3(kThreads), 0, stream, a);
  };
  const int64_t transforms = a.rows * (a.n / a.radix);
  if (a.radix == 8) return launch(n2m_fft_upsample_pass<8>, transforms);
  if (a.radix == 4) return launch(n2m_fft_upsample_pass<4>, transforms);
  if (a.radix == 2) return launch(n2m_fft_upsample_pass<2>, transforms);
  return launch(n2m_fft_upsample_sum, a.rows * a.n);
}

// Transforms rows of n values from `in` to `out`, or, where out.data is null, to a buffer: the
// result tells which. Two buffers in turn; `in` may be the second one.
Status LaunchTransform(const View& in, View* out, int64_t n, int64_t rows, bool inverse,
                       Complex* const (&buffers)[2], void* stream) {
  const std::vector<int> radices = RadicesOf(n);
  PassArgs a = {in, {}, n, rows, 1, 0, inverse};
  int turn = 0;
  for (size_t i = 0; i < radices.size(); ++i) {
    a.radix = radices[i];
    const bool last = i + 1 == radices.size();
    a.out =
        last && out->data != nullptr ? *out : View{Kind::kComplex, buffers[turn], n, 0, 0, 0, 0};
    if (Status status = LaunchPass(a, stream); !status.ok()) return status;
    a.in = a.out;
    a.done *= a.radix;
    turn ^= 1;
  }
  *out = a.out;
  return Status::Ok();
}

// y = gain * the resampling of the rows of x, from from_n to n values.
Status Resample(const FftUpsampleShape& s, const void* x, int64_t from_n, void* y, int64_t n,
                float half_weight, float* scratch, void* stream) {
  const int64_t rows = s.B * s.C, most = std::max(from_n, n);
  if (rows * most == 0) return Status::Ok();
  if (rows * most > kMostValues) {
    return Status::InvalidArgument(
        "n2m.fft_upsample: x and y must be of less than 2^31 values on a GPU, got " +
        std::to_string(rows * most));
  }
  if (from_n == n) {
    const size_t bytes = rows * n * (s.dtype == DType::kFloat32 ? 4 : 2);
    return Copy(kName, y, x, bytes, stream);
  }
  const Kind kind = s.dtype == DType::kFloat32 ? Kind::kFloat32 : Kind::kBFloat16;
  Complex* const first = reinterpret_cast<Complex*>(scratch);
  Complex* const second = first + rows * most;
  const View in = {kind, const_cast<void*>(x), from_n, s.C, 0, 0, 1};
  View spectrum = {};
  Status status = LaunchTransform(in, &spectrum, from_n, rows, false, {first, second}, stream);
  if (!status.ok()) return status;
  Complex* const other = spectrum.data == first ? second : first;
  spectrum = {Kind::kSpectrum, spectrum.data, n, 0, from_n, half_weight, 0};
  View out = {kind, y, n, s.C, 0, 0, 1.0f / static_cast<float>(s.T)};
  Complex* const same = static_cast<Complex*>(spectrum.data);
  return LaunchTransform(spectrum, &out, n, rows, true, {other, same}, stream);
}

}  // namespace

int64_t FftUpsampleScratch(const FftUpsampleShape& s) {
  if (!Check(s).ok()) return 0;
  return 4 * s.B * s.C * std::max(s.T, s.T * s.up / s.down);
}

Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                      void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  const float half_weight = s.up > s.down ? 0.5f : 2.0f;
  return Resample(s, x, s.T, y, s.T * s.up / s.down, half_weight, scratch, stream);
}

Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                      void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  return Resample(s, dy, s.T * s.up / s.down, dx, s.T, 1.0f, scratch, stream);
}

}  // namespace n2m::cuda
