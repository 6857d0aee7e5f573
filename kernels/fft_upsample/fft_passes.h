// The transform itself, on two planes (real, imaginary), forward only: the inverse is the forward
// transform with the planes swapped on the way in and out.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common/simd.h"
#include "kernels/fft_upsample/fft_plan.h"

namespace n2m::fft {

template <int W>
struct Lane {
  using V = simd::Float<W>;
  static N2M_INLINE V Load(const float* p) { return simd::Load<W>(p); }
  static N2M_INLINE void Store(float* p, V v) { simd::Store<W>(p, v); }
};
template <>
struct Lane<1> {
  using V = float;
  static N2M_INLINE V Load(const float* p) { return *p; }
  static N2M_INLINE void Store(float* p, V v) { *p = v; }
};

// In place: r, i become the P-point transform of themselves.
template <int P, class V>
N2M_INLINE void Butterfly(V* r, V* i) {
  if constexpr (P == 2) {
    const V r1 = r[1], i1 = i[1];
    r[1] = r[0] - r1;
    i[1] = i[0] - i1;
    r[0] = r[0] + r1;
    i[0] = i[0] + i1;
  } else if constexpr (P == 3) {
    const float sine = 0.866025403784438647f;
    const V sum_r = r[1] + r[2], sum_i = i[1] + i[2];
    const V dif_r = sine * (r[1] - r[2]), dif_i = sine * (i[1] - i[2]);
    const V mid_r = r[0] - 0.5f * sum_r, mid_i = i[0] - 0.5f * sum_i;
    r[0] = r[0] + sum_r;
    i[0] = i[0] + sum_i;
    r[1] = mid_r + dif_i;
    i[1] = mid_i - dif_r;
    r[2] = mid_r - dif_i;
    i[2] = mid_i + dif_r;
  } else if constexpr (P == 4) {
    const V r0 = r[0] + r[2], i0 = i[0] + i[2], r1 = r[0] - r[2], i1 = i[0] - i[2];
    const V r2 = r[1] + r[3], i2 = i[1] + i[3], r3 = r[1] - r[3], i3 = i[1] - i[3];
    r[0] = r0 + r2;
    i[0] = i0 + i2;
    r[1] = r1 + i3;
    i[1] = i1 - r3;
    r[2] = r0 - r2;
    i[2] = i0 - i2;
    r[3] = r1 - i3;
    i[3] = i1 + r3;
  } else if constexpr (P == 5) {
    const float c1 = 0.309016994374947424f, c2 = -0.809016994374947424f;
    const float s1 = 0.951056516295153572f, s2 = 0.587785252292473129f;
    const V ar = r[1] + r[4], ai = i[1] + i[4], br = r[2] + r[3], bi = i[2] + i[3];
    const V cr = r[1] - r[4], ci = i[1] - i[4], dr = r[2] - r[3], di = i[2] - i[3];
    const V er = r[0] + c1 * ar + c2 * br, ei = i[0] + c1 * ai + c2 * bi;
    const V fr = r[0] + c2 * ar + c1 * br, fi = i[0] + c2 * ai + c1 * bi;
    const V gr = s1 * cr + s2 * dr, gi = s1 * ci + s2 * di;
    const V hr = s2 * cr - s1 * dr, hi = s2 * ci - s1 * di;
    r[0] = r[0] + ar + br;
    i[0] = i[0] + ai + bi;
    r[1] = er + gi;
    i[1] = ei - gr;
    r[4] = er - gi;
    i[4] = ei + gr;
    r[2] = fr + hi;
    i[2] = fi - hr;
    r[3] = fr - hi;
    i[3] = fi + hr;
  } else {
    static_assert(P == 8, "no butterfly of this radix");
    const float h = 0.707106781186547524f;
    V er[4] = {r[0], r[2], r[4], r[6]}, ei[4] = {i[0], i[2], i[4], i[6]};
    V odd_r[4] = {r[1], r[3], r[5], r[7]}, odd_i[4] = {i[1], i[3], i[5], i[7]};
    Butterfly<4>(er, ei);
    Butterfly<4>(odd_r, odd_i);
    const V r1 = h * (odd_r[1] + odd_i[1]), i1 = h * (odd_i[1] - odd_r[1]);
    const V r2 = odd_i[2], i2 = -odd_r[2];
    const V r3 = h * (odd_i[3] - odd_r[3]), i3 = -h * (odd_r[3] + odd_i[3]);
    r[0] = er[0] + odd_r[0];
    i[0] = ei[0] + odd_i[0];
    r[4] = er[0] - odd_r[0];
    i[4] = ei[0] - odd_i[0];
    r[1] = er[1] + r1;
    i[1] = ei[1] + i1;
    r[5] = er[1] - r1;
    i[5] = ei[1] - i1;
    r[2] = er[2] + r2;
    i[2] = ei[2] + i2;
    r[6] = er[2] - r2;
    i[6] = ei[2] - i2;
    r[3] = er[3] + r3;
    i[3] = ei[3] + i3;
    r[7] = er[3] - r3;
    i[7] = ei[3] - i3;
  }
}

struct Planes {
  float* re;
  float* im;
};

// One butterfly with its twiddles at element q of block j.
template <int P, int W>
N2M_INLINE void PassStep(const float* __restrict xr, const float* __restrict xi,
                         float* __restrict yr, float* __restrict yi, int64_t in_step,
                         int64_t out_step, const float* __restrict twiddle, bool turn) {
  using V = typename Lane<W>::V;
  V r[P], i[P];
  for (int m = 0; m < P; ++m) {
    r[m] = Lane<W>::Load(xr + m * in_step);
    i[m] = Lane<W>::Load(xi + m * in_step);
  }
  Butterfly<P>(r, i);
  Lane<W>::Store(yr, r[0]);
  Lane<W>::Store(yi, i[0]);
  for (int k = 1; k < P; ++k) {
    V out_r = r[k], out_i = i[k];
    if (turn) {
      const float c = twiddle[2 * k - 2], s = twiddle[2 * k - 1];
      out_r = r[k] * c - i[k] * s;
      out_i = r[k] * s + i[k] * c;
    }
    Lane<W>::Store(yr + k * out_step, out_r);
    Lane<W>::Store(yi + k * out_step, out_i);
  }
}

template <int P>
N2M_INLINE void RunPass(const Pass& pass, const Planes& x, const Planes& y) {
  const int64_t blocks = pass.length / P, stride = pass.stride;
  const int64_t in_step = stride * blocks;
  const float* twiddle = pass.twiddle.data();
  for (int64_t j = 0; j < blocks; ++j, twiddle += 2 * (P - 1)) {
    const float *xr = x.re + stride * j, *xi = x.im + stride * j;
    float *yr = y.re + stride * P * j, *yi = y.im + stride * P * j;
    int64_t q = 0;
    for (; q + kLanes <= stride; q += kLanes) {
      PassStep<P, kLanes>(xr + q, xi + q, yr + q, yi + q, in_step, stride, twiddle, j != 0);
    }
    for (; q < stride; ++q) {
      PassStep<P, 1>(xr + q, xi + q, yr + q, yi + q, in_step, stride, twiddle, j != 0);
    }
  }
}

// A prime radix p. With a_m = x_m + x_{p-m} and b_m = x_m - x_{p-m}, m = 1 .. (p-1)/2:
//   X_k = x_0 + sum_m cos(2 pi m k / p) a_m - i sum_m sin(2 pi m k / p) b_m, X_{p-k} with + i.
template <int W>
N2M_INLINE void PrimeStep(int64_t p, const float* __restrict xr, const float* __restrict xi,
                          float* __restrict yr, float* __restrict yi, int64_t in_step,
                          int64_t out_step, const float* __restrict twiddle,
                          const float* __restrict circle) {
  using V = typename Lane<W>::V;
  const int64_t half = (p - 1) / 2;
  V ar[kLargestRadix / 2], ai[kLargestRadix / 2], br[kLargestRadix / 2], bi[kLargestRadix / 2];
  const V r0 = Lane<W>::Load(xr), i0 = Lane<W>::Load(xi);
  V sum_r = r0, sum_i = i0;
  for (int64_t m = 1; m <= half; ++m) {
    const V pr = Lane<W>::Load(xr + m * in_step), pi = Lane<W>::Load(xi + m * in_step);
    const V qr = Lane<W>::Load(xr + (p - m) * in_step), qi = Lane<W>::Load(xi + (p - m) * in_step);
    ar[m - 1] = pr + qr;
    ai[m - 1] = pi + qi;
    br[m - 1] = pr - qr;
    bi[m - 1] = pi - qi;
    sum_r = sum_r + ar[m - 1];
    sum_i = sum_i + ai[m - 1];
  }
  Lane<W>::Store(yr, sum_r);
  Lane<W>::Store(yi, sum_i);
  for (int64_t k = 1; k <= half; ++k) {
    V cr = r0, ci = i0, sr{}, si{};
    int64_t turn = 0;
    for (int64_t m = 0; m < half; ++m) {
      turn += k;
      turn -= turn >= p ? p : 0;
      const float c = circle[2 * turn], s = circle[2 * turn + 1];
      cr = cr + c * ar[m];
      ci = ci + c * ai[m];
      sr = sr + s * br[m];
      si = si + s * bi[m];
    }
    for (int side = 0; side < 2; ++side) {
      const int64_t out = side ? p - k : k;
      const V r = side ? cr - si : cr + si, i = side ? ci + sr : ci - sr;
      const float c = twiddle[2 * out - 2], s = twiddle[2 * out - 1];
      Lane<W>::Store(yr + out * out_step, r * c - i * s);
      Lane<W>::Store(yi + out * out_step, r * s + i * c);
    }
  }
}

N2M_INLINE void RunPrimePass(const Pass& pass, const Planes& x, const Planes& y) {
  const int64_t p = pass.radix, blocks = pass.length / p, stride = pass.stride;
  const int64_t in_step = stride * blocks;
  const float* circle = pass.circle.data();
  for (int64_t j = 0; j < blocks; ++j) {
    const float* twiddle = pass.twiddle.data() + 2 * (p - 1) * j;
    const float *xr = x.re + stride * j, *xi = x.im + stride * j;
    float *yr = y.re + stride * p * j, *yi = y.im + stride * p * j;
    int64_t q = 0;
    for (; q + kLanes <= stride; q += kLanes) {
      PrimeStep<kLanes>(p, xr + q, xi + q, yr + q, yi + q, in_step, stride, twiddle, circle);
    }
    for (; q < stride; ++q) {
      PrimeStep<1>(p, xr + q, xi + q, yr + q, yi + q, in_step, stride, twiddle, circle);
    }
  }
}

// Rows become columns. Three rounds of swaps, each between rows `gap` apart.
N2M_INLINE void Transpose8(simd::Float<8>* v) {
  using V = simd::Float<8>;
  V t[8];
  for (int k = 0; k < 8; k += 2) {
    t[k] = __builtin_shufflevector(v[k], v[k + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    t[k + 1] = __builtin_shufflevector(v[k], v[k + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  V u[8];
  for (int k = 0; k < 8; k += 4) {
    for (int l = 0; l < 2; ++l) {
      u[k + l] = __builtin_shufflevector(t[k + l], t[k + l + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      u[k + l + 2] = __builtin_shufflevector(t[k + l], t[k + l + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int k = 0; k < 4; ++k) {
    v[k] = __builtin_shufflevector(u[k], u[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[k + 4] = __builtin_shufflevector(u[k], u[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// From F_l[k] at k * 8 + l (eight transforms of m = n / 8 points) to
// Z[k + m r] = sum_l e^{-2 pi i l r / 8} (e^{-2 pi i l k / n} F_l[k]).
N2M_INLINE void Join(const Plan& plan, const Planes& x, const Planes& y) {
  using V = simd::Float<8>;
  const int64_t m = plan.n / kLanes;
  for (int64_t block = 0; block < m; block += kLanes) {
    // The last block may overlap the one before: it computes the same values again.
    const int64_t k = block + kLanes <= m ? block : m - kLanes;
    V r[8], i[8];
    for (int l = 0; l < 8; ++l) {
      r[l] = simd::Load<8>(x.re + (k + l) * kLanes);
      i[l] = simd::Load<8>(x.im + (k + l) * kLanes);
    }
    Transpose8(r);
    Transpose8(i);
    for (int l = 1; l < 8; ++l) {
      const V c = simd::Load<8>(plan.join_re.data() + (l - 1) * m + k);
      const V s = simd::Load<8>(plan.join_im.data() + (l - 1) * m + k);
      const V turned = r[l] * c - i[l] * s;
      i[l] = r[l] * s + i[l] * c;
      r[l] = turned;
    }
    Butterfly<8>(r, i);
    for (int l = 0; l < 8; ++l) {
      simd::Store<8>(y.re + l * m + k, r[l]);
      simd::Store<8>(y.im + l * m + k, i[l]);
    }
  }
}

struct TransformArgs {
  const Plan* plan;  // without an inner plan
  Planes a, b;       // the input is in a; both are overwritten
  bool* in_b;        // set: where the result lies
};

template <int L>
struct Transform {
  static N2M_INLINE void Run(const TransformArgs& args) {
    Planes x = args.a, y = args.b;
    const int64_t count = static_cast<int64_t>(args.plan->passes.size());
    for (int64_t i = 0; i < count; ++i) {
      const Pass& pass = args.plan->passes[static_cast<size_t>(i)];
      switch (pass.radix) {
        case 2:
          RunPass<2>(pass, x, y);
          break;
        case 3:
          RunPass<3>(pass, x, y);
          break;
        case 4:
          RunPass<4>(pass, x, y);
          break;
        case 5:
          RunPass<5>(pass, x, y);
          break;
        case 8:
          RunPass<8>(pass, x, y);
          break;
        default:
          RunPrimePass(pass, x, y);
      }
      const Planes swapped = x;
      x = y;
      y = swapped;
    }
    if (args.plan->lanes == kLanes) Join(*args.plan, x, y);
    *args.in_b = (count + (args.plan->lanes == kLanes)) % 2 == 1;
  }
};

}  // namespace n2m::fft
