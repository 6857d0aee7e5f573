#include "pipeline/spectrum.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/simd.h"
#include "pipeline/config.h"

namespace n2m {
namespace {

constexpr int64_t kHalf = kWindow / 2;  // points of the complex transform of a real frame
constexpr int64_t kEnds = (kWindow - kMelHop) / 2;  // samples by which the outer frames overhang
constexpr int kFrames = 16;                         // transforms at once, one a lane
constexpr double kTwoPi = 6.283185307179586476925;

struct Tables {
  // cos and sin of 2 pi i / kWindow.
  float cosine[kWindow], sine[kWindow];
};

const Tables& Twiddles() {
  static const Tables tables = [] {
    Tables t;
    for (int64_t i = 0; i < kWindow; ++i) {
      const double angle = kTwoPi * static_cast<double>(i) / static_cast<double>(kWindow);
      t.cosine[i] = static_cast<float>(std::cos(angle));
      t.sine[i] = static_cast<float>(std::sin(angle));
    }
    return t;
  }();
  return tables;
}

struct FftArgs {
  const Tables* tables;
  float *re, *im;              // (kHalf, kFrames) in and out
  float *re_other, *im_other;  // the same, scratch
  bool inverse;
};

// Complex transforms of 512 points, not scaled, kFrames at once: Stockham passes of radix 8 (512 =
// 8^3).
template <int L>
struct Fft {
  using F = simd::Float<L>;
  struct Complex {
    F re, im;
  };
  static N2M_INLINE Complex Plus(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
  static N2M_INLINE Complex Minus(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
  // a times -i (forward) or i (inverse): `turn` is 1 or -1.
  static N2M_INLINE Complex Quarter(Complex a, float turn) { return {a.im * turn, -a.re * turn}; }
  static N2M_INLINE void Four(Complex* x, float turn) {
    const Complex a = Plus(x[0], x[2]), b = Minus(x[0], x[2]), c = Plus(x[1], x[3]),
                  d = Quarter(Minus(x[1], x[3]), turn);
    x[0] = Plus(a, c);
    x[1] = Plus(b, d);
    x[2] = Minus(a, c);
    x[3] = Minus(b, d);
  }
  static N2M_INLINE void Eight(Complex* x, float turn) {
    Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
    Four(even, turn);
    Four(odd, turn);
    const float h = 0.70710678118654752f;
    const Complex q1 = Quarter(odd[1], turn), q3 = Quarter(odd[3], turn);
    odd[1] = {(odd[1].re + q1.re) * h, (odd[1].im + q1.im) * h};
    odd[2] = Quarter(odd[2], turn);
    odd[3] = {(q3.re - odd[3].re) * h, (q3.im - odd[3].im) * h};
    for (int k = 0; k < 4; ++k) {
      x[k] = Plus(even[k], odd[k]);
      x[k + 4] = Minus(even[k], odd[k]);
    }
  }
  static N2M_INLINE void Run(const FftArgs& a) {
    const float turn = a.inverse ? -1.0f : 1.0f;
    float *re = a.re, *im = a.im, *to_re = a.re_other, *to_im = a.im_other;
    // length: of the blocks that are left to transform; stride: how many of them are interleaved.
    for (int64_t length = kHalf, stride = 1; length > 1; length /= 8, stride *= 8) {
      const int64_t m = length / 8;
      for (int64_t j = 0; j < m; ++j) {
        float c[8], s[8];
        for (int k = 1; k < 8; ++k) {
          const int64_t at = j * k * (kWindow / length);  // below kWindow
          c[k] = a.tables->cosine[at];
          s[k] = a.tables->sine[at] * turn;
        }
        for (int64_t q = 0; q < stride; ++q) {
          for (int lane = 0; lane < kFrames; lane += L) {
            Complex x[8];
            for (int k = 0; k < 8; ++k) {
              const int64_t at = ((j + k * m) * stride + q) * kFrames + lane;
              x[k] = {simd::Load<L>(re + at), simd::Load<L>(im + at)};
            }
            Eight(x, turn);
            for (int k = 0; k < 8; ++k) {
              const int64_t at = ((j * 8 + k) * stride + q) * kFrames + lane;
              // times e^{-2 pi i j k / length}
              const Complex y = k == 0 ? x[0]
                                       : Complex{x[k].re * c[k] + x[k].im * s[k],
                                                 x[k].im * c[k] - x[k].re * s[k]};
              simd::Store<L>(to_re + at, y.re);
              simd::Store<L>(to_im + at, y.im);
            }
          }
        }
      }
      float* swap = re;
      re = to_re;
      to_re = swap;
      swap = im;
      im = to_im;
      to_im = swap;
    }
    // Three passes: the result lies in the other planes.
    __builtin_memcpy(a.re, a.re_other, sizeof(float) * kHalf * kFrames);
    __builtin_memcpy(a.im, a.im_other, sizeof(float) * kHalf * kFrames);
  }
};
N2M_MULTI_ISA(Fft, FftArgs)

// Between the transform Z of 512 points of even and odd samples, z = x[2t] + i x[2t+1], and that of
// 1024 real samples:
//   X[k] = (Z[k] + Z*[h-k]) / 2 - i w^k (Z[k] - Z*[h-k]) / 2,  w = e^{-2 pi i / 1024}, h = 512.
struct Planes {
  float re[kHalf * kFrames], im[kHalf * kFrames], re_other[kHalf * kFrames],
      im_other[kHalf * kFrames];
};

void Transform(Planes* p, bool inverse) {
  Fft_Run({&Twiddles(), p->re, p->im, p->re_other, p->im_other, inverse});
}

Planes& Scratch() {
  static thread_local Planes planes;  // 128 KiB a thread, once
  return planes;
}

void Unpack(const Planes& p, int lane, float* re, float* im) {
  const Tables& t = Twiddles();
  for (int64_t k = 0; k <= kHalf; ++k) {
    const int64_t a = (k % kHalf) * kFrames + lane, b = ((kHalf - k) % kHalf) * kFrames + lane;
    const float even_re = 0.5f * (p.re[a] + p.re[b]), even_im = 0.5f * (p.im[a] - p.im[b]);
    const float odd_re = 0.5f * (p.im[a] + p.im[b]), odd_im = -0.5f * (p.re[a] - p.re[b]);
    const float c = k == kHalf ? -1.0f : t.cosine[k], s = k == kHalf ? 0.0f : t.sine[k];
    re[k] = even_re + c * odd_re + s * odd_im;
    im[k] = even_im + c * odd_im - s * odd_re;
  }
}

// The way back, times two; the imaginary parts of the first and the last bin are not read.
void Pack(const float* re, const float* im, int lane, Planes* p) {
  const Tables& t = Twiddles();
  for (int64_t k = 0; k < kHalf; ++k) {
    const int64_t b = kHalf - k;
    const float im_a = k == 0 ? 0.0f : im[k], im_b = k == 0 ? 0.0f : im[b];
    const float even_re = re[k] + re[b], even_im = im_a - im_b;
    const float diff_re = re[k] - re[b], diff_im = im_a + im_b;
    const float odd_re = t.cosine[k] * diff_re - t.sine[k] * diff_im,
                odd_im = t.cosine[k] * diff_im + t.sine[k] * diff_re;
    p->re[k * kFrames + lane] = even_re - odd_im;
    p->im[k * kFrames + lane] = even_im + odd_re;
  }
}

}  // namespace

const std::vector<float>& HannWindow() {
  static const std::vector<float> window = [] {
    std::vector<float> w(kWindow);
    for (int64_t i = 0; i < kWindow; ++i) {
      w[static_cast<size_t>(i)] = static_cast<float>(
          0.5 - 0.5 * std::cos(kTwoPi * static_cast<double>(i) / static_cast<double>(kWindow)));
    }
    return w;
  }();
  return window;
}

void Stft(const float* x, int64_t frames, float* re, float* im, Executor& executor) {
  const float* window = HannWindow().data();
  const int64_t length = frames * kMelHop;
  ParallelFor(executor, frames, kFrames, [&](int64_t begin, int64_t end) {
    Planes& p = Scratch();
    for (int lane = 0; lane < kFrames; ++lane) {
      const int64_t first = (begin + lane) * kMelHop - kEnds;
      for (int64_t i = 0; i < kWindow; ++i) {
        const int64_t at = first + i;
        const bool inside = begin + lane < end && at >= 0 && at < length;
        const float value = inside ? x[at] * window[i] : 0.0f;
        (i % 2 == 0 ? p.re : p.im)[i / 2 * kFrames + lane] = value;
      }
    }
    Transform(&p, false);
    for (int64_t f = begin; f < end; ++f)
      Unpack(p, static_cast<int>(f - begin), re + f * kBins, im + f * kBins);
  });
}

void Istft(const float* re, const float* im, int64_t frames, float* parts, float* x,
           Executor& executor) {
  const float* window = HannWindow().data();
  ParallelFor(executor, frames, kFrames, [&](int64_t begin, int64_t end) {
    Planes& p = Scratch();
    std::memset(static_cast<void*>(&p), 0, sizeof(p));
    for (int64_t f = begin; f < end; ++f)
      Pack(re + f * kBins, im + f * kBins, static_cast<int>(f - begin), &p);
    Transform(&p, true);
    const float scale = 0.5f / static_cast<float>(kHalf);
    for (int64_t f = begin; f < end; ++f) {
      float* part = parts + f * kWindow;
      for (int64_t i = 0; i < kHalf; ++i) {
        const int64_t at = i * kFrames + (f - begin);
        part[2 * i] = p.re[at] * scale * window[2 * i];
        part[2 * i + 1] = p.im[at] * scale * window[2 * i + 1];
      }
    }
  });
  // Overlap-added and divided by the windows' squares, a hop at a time: the frames that reach it,
  // first to last.
  ParallelFor(executor, frames, 64, [&](int64_t begin, int64_t end) {
    for (int64_t hop = begin; hop < end; ++hop) {
      for (int64_t i = 0; i < kMelHop; ++i) {
        const int64_t at = hop * kMelHop + i + kEnds;  // in the overhanging signal
        const int64_t first = std::max<int64_t>(0, (at - kWindow + kMelHop) / kMelHop);
        const int64_t last = std::min(frames - 1, at / kMelHop);
        float sum = 0.0f, weight = 0.0f;
        for (int64_t f = first; f <= last; ++f) {
          const int64_t place = at - f * kMelHop;
          sum += parts[f * kWindow + place];
          weight += window[place] * window[place];
        }
        x[hop * kMelHop + i] = sum / weight;
      }
    }
  });
}

}  // namespace n2m
