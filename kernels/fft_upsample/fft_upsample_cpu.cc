#include "noise2music/fft_upsample.h"

#include <algorithm>
#include <numeric>

#include "kernels/common/simd.h"
#include "kernels/fft_upsample/fft_passes.h"
#include "kernels/fft_upsample/fft_plan.h"
#include "kernels/fft_upsample/fft_plan_inl.h"
#include "kernels/fft_upsample/fft_upsample_check.h"

namespace n2m {
namespace {

using fft::kLanes;
using fft::Plan;
using fft::PlaneFloats;
using fft::Planes;
using fft::Resampler;
using fft_upsample::Check;
using simd::BFloat16;

constexpr int64_t kJoinGrain = 4096;  // samples per phase a task interleaves

// Planes of n values each, carved from *scratch.
Planes Carve(float** scratch, int64_t n) {
  const Planes planes = {*scratch, *scratch + n + fft::kPad};
  *scratch += PlaneFloats(n);
  return planes;
}

Planes Swap(const Planes& p) { return {p.im, p.re}; }

Planes RunSmooth(const Plan& plan, const Planes& a, const Planes& b) {
  bool in_b = false;
  fft::Transform_Run({&plan, a, b, &in_b});
  return in_b ? b : a;
}

// Z[k] = chirp[k] sum_t (z[t] chirp[t]) conj(chirp[k - t]): a cyclic convolution of a smooth
// length.
Planes RunBluestein(const Plan& plan, const Planes& a, float* extra) {
  const int64_t n = plan.n, m = plan.inner->n;
  const Planes u = Carve(&extra, m), v = Carve(&extra, m);
  const float *chirp_re = plan.chirp_re.data(), *chirp_im = plan.chirp_im.data();
  const float *filter_re = plan.filter_re.data(), *filter_im = plan.filter_im.data();
  for (int64_t t = 0; t < n; ++t) {
    u.re[t] = a.re[t] * chirp_re[t] - a.im[t] * chirp_im[t];
    u.im[t] = a.re[t] * chirp_im[t] + a.im[t] * chirp_re[t];
  }
  std::fill(u.re + n, u.re + m, 0.0f);
  std::fill(u.im + n, u.im + m, 0.0f);
  const Planes w = RunSmooth(*plan.inner, u, v);
  for (int64_t k = 0; k < m; ++k) {
    const float re = w.re[k], im = w.im[k];
    w.re[k] = re * filter_re[k] - im * filter_im[k];
    w.im[k] = re * filter_im[k] + im * filter_re[k];
  }
  const Planes other = w.re == u.re ? v : u;
  const Planes y = Swap(RunSmooth(*plan.inner, Swap(w), Swap(other)));
  for (int64_t k = 0; k < n; ++k) {
    a.re[k] = y.re[k] * chirp_re[k] - y.im[k] * chirp_im[k];
    a.im[k] = y.re[k] * chirp_im[k] + y.im[k] * chirp_re[k];
  }
  return a;
}

// The transform of a, in a or in b; both are overwritten.
Planes Forward(const Plan& plan, const Planes& a, const Planes& b, float* extra) {
  return plan.inner ? RunBluestein(plan, a, extra) : RunSmooth(plan, a, b);
}
// The unnormalised inverse.
Planes Inverse(const Plan& plan, const Planes& a, const Planes& b, float* extra) {
  return Swap(Forward(plan, Swap(a), Swap(b), extra));
}

N2M_INLINE simd::Float<8> Reversed(simd::Float<8> v) {
  return __builtin_shufflevector(v, v, 7, 6, 5, 4, 3, 2, 1, 0);
}

// Z = the transform of x[2m] + i x[2m+1], of h = n / 2 points, to X = the transform of x:
//   E = (Z[k] + conj Z[h-k]) / 2, O = (Z[k] - conj Z[h-k]) / 2i, X[k] = E + e^{-2 pi i k / n} O,
// and X[n-k] = conj X[k].
struct UnpackArgs {
  const Resampler* r;
  Planes z, x;
};

template <int L>
struct Unpack {
  static N2M_INLINE void Run(const UnpackArgs& a) {
    using V = simd::Float<8>;
    const int64_t n = a.r->n, h = n / 2;
    const float *c = a.r->unpack_re.data(), *s = a.r->unpack_im.data();
    const Planes z = a.z, x = a.x;
    x.re[0] = z.re[0] + z.im[0];
    x.im[0] = 0.0f;
    x.re[h] = z.re[0] - z.im[0];
    x.im[h] = 0.0f;
    int64_t k = 1;
    for (; k + 8 <= h; k += 8) {
      const V zr = simd::Load<8>(z.re + k), zi = simd::Load<8>(z.im + k);
      const V mr = Reversed(simd::Load<8>(z.re + h - k - 7));
      const V mi = Reversed(simd::Load<8>(z.im + h - k - 7));
      const V er = 0.5f * (zr + mr), ei = 0.5f * (zi - mi);
      const V odd_r = 0.5f * (zi + mi), odd_i = 0.5f * (mr - zr);
      const V cv = simd::Load<8>(c + k), sv = simd::Load<8>(s + k);
      const V re = er + (odd_r * cv - odd_i * sv), im = ei + (odd_r * sv + odd_i * cv);
      simd::Store<8>(x.re + k, re);
      simd::Store<8>(x.im + k, im);
      simd::Store<8>(x.re + n - k - 7, Reversed(re));
      simd::Store<8>(x.im + n - k - 7, Reversed(-im));
    }
    for (; k < h; ++k) {
      const float er = 0.5f * (z.re[k] + z.re[h - k]), ei = 0.5f * (z.im[k] - z.im[h - k]);
      const float odd_r = 0.5f * (z.im[k] + z.im[h - k]), odd_i = 0.5f * (z.re[h - k] - z.re[k]);
      x.re[k] = er + (odd_r * c[k] - odd_i * s[k]);
      x.im[k] = ei + (odd_r * s[k] + odd_i * c[k]);
      x.re[n - k] = x.re[k];
      x.im[n - k] = -x.im[k];
    }
  }
};
N2M_MULTI_ISA(Unpack, UnpackArgs)

// The transpose of Unpack up to scale: of the spectrum X (n values, of which only the part of a
// real signal counts) to Z such that the inverse transform of h points gives x[2m] + i x[2m+1],
// unnormalised.
void Pack(const Resampler& r, const Planes& x, const Planes& z) {
  const int64_t n = r.n, h = n / 2;
  for (int64_t k = 0; k < h; ++k) {
    const int64_t mirror = k == 0 ? 0 : n - k, far_mirror = h - k;
    // p = the Hermitian part at k, q = at k + h.
    const float pr = 0.5f * (x.re[k] + x.re[mirror]), pi = 0.5f * (x.im[k] - x.im[mirror]);
    const float qr = 0.5f * (x.re[k + h] + x.re[far_mirror]);
    const float qi = 0.5f * (x.im[k + h] - x.im[far_mirror]);
    const float er = pr + qr, ei = pi + qi, dr = pr - qr, di = pi - qi;
    const size_t bin = static_cast<size_t>(k);
    const float c = r.unpack_re[bin], s = -r.unpack_im[bin];  // e^{+2 pi i k / n}
    z.re[k] = er - (dr * s + di * c);
    z.im[k] = ei + (dr * c - di * s);
  }
}

// w[q] = sum_a h[q + a m] x[q + a m]: the shifted spectrum folded to m = n / down points.
struct ShiftArgs {
  const float *hr, *hi;
  Planes x, w;
  int64_t part_n, down;
};

template <int L>
struct Shift {
  static N2M_INLINE void Run(const ShiftArgs& a) {
    using V = simd::Float<8>;
    const int64_t m = a.part_n;
    int64_t q = 0;
    for (; q + 8 <= m; q += 8) {
      V wr{}, wi{};
      for (int64_t at = q; at < m * a.down; at += m) {
        const V hr = simd::Load<8>(a.hr + at), hi = simd::Load<8>(a.hi + at);
        const V xr = simd::Load<8>(a.x.re + at), xi = simd::Load<8>(a.x.im + at);
        wr = wr + (hr * xr - hi * xi);
        wi = wi + (hr * xi + hi * xr);
      }
      simd::Store<8>(a.w.re + q, wr);
      simd::Store<8>(a.w.im + q, wi);
    }
    for (; q < m; ++q) {
      float wr = 0.0f, wi = 0.0f;
      for (int64_t at = q; at < m * a.down; at += m) {
        wr += a.hr[at] * a.x.re[at] - a.hi[at] * a.x.im[at];
        wi += a.hr[at] * a.x.im[at] + a.hi[at] * a.x.re[at];
      }
      a.w.re[q] = wr;
      a.w.im[q] = wi;
    }
  }
};
N2M_MULTI_ISA(Shift, ShiftArgs)

// x[k] += conj(h[k]) w[k mod m]: the adjoint of Shift.
template <int L>
struct ShiftBack {
  static N2M_INLINE void Run(const ShiftArgs& a) {
    using V = simd::Float<8>;
    const int64_t m = a.part_n;
    for (int64_t base = 0; base < m * a.down; base += m) {
      const float *hr = a.hr + base, *hi = a.hi + base;
      float *xr = a.x.re + base, *xi = a.x.im + base;
      int64_t q = 0;
      for (; q + 8 <= m; q += 8) {
        const V cr = simd::Load<8>(hr + q), ci = simd::Load<8>(hi + q);
        const V wr = simd::Load<8>(a.w.re + q), wi = simd::Load<8>(a.w.im + q);
        simd::Store<8>(xr + q, simd::Load<8>(xr + q) + (cr * wr + ci * wi));
        simd::Store<8>(xi + q, simd::Load<8>(xi + q) + (cr * wi - ci * wr));
      }
      for (; q < m; ++q) {
        xr[q] += hr[q] * a.w.re[q] + hi[q] * a.w.im[q];
        xi[q] += hr[q] * a.w.im[q] - hi[q] * a.w.re[q];
      }
    }
  }
};
N2M_MULTI_ISA(ShiftBack, ShiftArgs)

// Scratch of one column.
struct Column {
  Planes a, b;  // n values each
  float* rest;  // pairs() times (two planes of n / down values, extra)
  float* extra;
};

int64_t PairFloats(const Resampler& r) { return 2 * PlaneFloats(r.part_n) + r.part->ExtraFloats(); }
int64_t ColumnFloats(const Resampler& r) {
  return 2 * PlaneFloats(r.n) + r.input->ExtraFloats() + r.pairs() * PairFloats(r);
}

Column CarveColumn(const Resampler& r, float* scratch) {
  Column column;
  column.a = Carve(&scratch, r.n);
  column.b = Carve(&scratch, r.n);
  column.extra = scratch;
  column.rest = scratch + r.input->ExtraFloats();
  return column;
}

// The two pairs of planes and the extra scratch of pair p.
struct PairPlanes {
  Planes c, d;
  float* extra;
};
PairPlanes CarvePair(const Resampler& r, const Column& column, int64_t p) {
  float* scratch = column.rest + p * PairFloats(r);
  PairPlanes planes;
  planes.c = Carve(&scratch, r.part_n);
  planes.d = Carve(&scratch, r.part_n);
  planes.extra = scratch;
  return planes;
}

// The spectrum of the n real samples x[t * C].
template <class T>
Planes Spectrum(const Resampler& r, const Column& column, const T* x, int64_t C) {
  const Planes a = column.a;
  if (!r.packed()) {
    for (int64_t t = 0; t < r.n; ++t) a.re[t] = simd::LoadOne(x + t * C);
    std::fill(a.im, a.im + r.n, 0.0f);
    return Forward(*r.input, a, column.b, column.extra);
  }
  const int64_t h = r.n / 2;
  for (int64_t m = 0; m < h; ++m) {
    a.re[m] = simd::LoadOne(x + 2 * m * C);
    a.im[m] = simd::LoadOne(x + (2 * m + 1) * C);
  }
  const Planes z = Forward(*r.input, a, column.b, column.extra);
  const Planes spectrum = z.re == a.re ? column.b : a;
  Unpack_Run({&r, z, spectrum});
  return spectrum;
}

template <class T>
void ForwardColumns(const Resampler& r, const FftUpsampleShape& s, const T* x, T* y, float* scratch,
                    int64_t first, int64_t count, Executor& executor) {
  const int64_t out = r.up * r.part_n, pairs = r.pairs(), column_floats = ColumnFloats(r);
  auto input = [&](int64_t i) { return x + (first + i) / s.C * s.T * s.C + (first + i) % s.C; };
  std::vector<Planes> spectra(static_cast<size_t>(count)),
      phases(static_cast<size_t>(count * pairs));
  ParallelFor(executor, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      spectra[static_cast<size_t>(i)] =
          Spectrum(r, CarveColumn(r, scratch + i * column_floats), input(i), s.C);
    }
  });
  ParallelFor(executor, count * pairs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / pairs, p = item % pairs;
      const PairPlanes w = CarvePair(r, CarveColumn(r, scratch + i * column_floats), p);
      Shift_Run({r.shift_re.data() + p * r.n, r.shift_im.data() + p * r.n,
                 spectra[static_cast<size_t>(i)], w.c, r.part_n, r.down});
      phases[static_cast<size_t>(item)] = Inverse(*r.part, w.c, w.d, w.extra);
    }
  });
  // Interleaved only now, by time: two threads never write into one cache line at the same time.
  const int64_t chunks = (r.part_n + kJoinGrain - 1) / kJoinGrain;
  ParallelFor(executor, count * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / chunks, j0 = item % chunks * kJoinGrain;
      const int64_t j1 = std::min(j0 + kJoinGrain, r.part_n);
      const T* from = input(i);
      T* to = y + (first + i) / s.C * out * s.C + (first + i) % s.C;
      if (r.first_phase == 1) {
        for (int64_t j = j0; j < j1; ++j) to[r.up * j * s.C] = from[r.down * j * s.C];
      }
      for (int64_t phase = r.first_phase; phase < r.up; ++phase) {
        const int64_t index = phase - r.first_phase;
        const Planes& planes = phases[static_cast<size_t>(i * pairs + index / 2)];
        const float* values = index % 2 == 0 ? planes.re : planes.im;
        T* column = to + phase * s.C;
        for (int64_t j = j0; j < j1; ++j) simd::StoreOne(column + r.up * j * s.C, values[j]);
      }
    }
  });
}

// dx = Re(sum over pairs of the adjoint) + the adjoint of the plain copy.
template <class T>
void BackwardColumn(const Resampler& r, int64_t C, const T* dy, T* dx, float* scratch) {
  const Column column = CarveColumn(r, scratch);
  std::fill(column.a.re, column.a.re + r.n, 0.0f);
  std::fill(column.a.im, column.a.im + r.n, 0.0f);
  for (int64_t p = 0; p < r.pairs(); ++p) {
    const PairPlanes w = CarvePair(r, column, p);
    const int64_t phase = r.first_phase + 2 * p;
    for (int64_t j = 0; j < r.part_n; ++j) {
      w.c.re[j] = simd::LoadOne(dy + (r.up * j + phase) * C);
    }
    if (phase + 1 < r.up) {
      for (int64_t j = 0; j < r.part_n; ++j) {
        w.c.im[j] = simd::LoadOne(dy + (r.up * j + phase + 1) * C);
      }
    } else {
      std::fill(w.c.im, w.c.im + r.part_n, 0.0f);
    }
    const Planes spectrum = Forward(*r.part, w.c, w.d, w.extra);
    ShiftBack_Run({r.shift_re.data() + p * r.n, r.shift_im.data() + p * r.n, column.a, spectrum,
                   r.part_n, r.down});
  }
  Planes result;
  if (r.packed()) {
    Pack(r, column.a, column.b);
    result = Inverse(*r.input, column.b, column.a, column.extra);
  } else {
    result = Inverse(*r.input, column.a, column.b, column.extra);
  }
  for (int64_t t = 0; t < r.n; ++t) {
    float value = r.packed() ? (t % 2 == 0 ? result.re : result.im)[t / 2] : result.re[t];
    if (r.first_phase == 1 && t % r.down == 0) {
      value += simd::LoadOne(dy + t / r.down * r.up * C);
    }
    simd::StoreOne(dx + t * C, value);
  }
}

// Columns that are in scratch at once.
int64_t GroupSize(const FftUpsampleShape& s, int num_threads) {
  return std::min<int64_t>(s.B * s.C, std::max(num_threads, 1));
}

std::shared_ptr<const Resampler> ResamplerOf(const FftUpsampleShape& s) {
  const int64_t divisor = std::gcd(s.up, s.down);
  return fft::GetResampler(s.T, s.up / divisor, s.down / divisor);
}

template <class T>
void RunForward(const FftUpsampleShape& s, const T* x, T* y, float* scratch, Executor& executor) {
  if (s.up == s.down) {
    std::copy(x, x + s.B * s.T * s.C, y);
    return;
  }
  const auto r = ResamplerOf(s);
  const int64_t group = GroupSize(s, executor.num_threads());
  for (int64_t first = 0; first < s.B * s.C; first += group) {
    ForwardColumns(*r, s, x, y, scratch, first, std::min(group, s.B * s.C - first), executor);
  }
}

template <class T>
void RunBackward(const FftUpsampleShape& s, const T* dy, T* dx, float* scratch,
                 Executor& executor) {
  if (s.up == s.down) {
    std::copy(dy, dy + s.B * s.T * s.C, dx);
    return;
  }
  const auto r = ResamplerOf(s);
  const int64_t columns = s.B * s.C, out = r->up * r->part_n;
  const int64_t group = GroupSize(s, executor.num_threads());
  ParallelFor(executor, group, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      for (int64_t i = slot; i < columns; i += group) {
        const int64_t b = i / s.C, c = i % s.C;
        BackwardColumn(*r, s.C, dy + b * out * s.C + c, dx + b * s.T * s.C + c,
                       scratch + slot * ColumnFloats(*r));
      }
    }
  });
}

}  // namespace

int64_t FftUpsampleScratch(const FftUpsampleShape& s, int num_threads) {
  if (!Check(s).ok() || s.B * s.T * s.C == 0 || s.up == s.down) return 0;
  return GroupSize(s, num_threads) * ColumnFloats(*ResamplerOf(s));
}

Status FftUpsampleFwd(const FftUpsampleShape& s, const void* x, void* y, float* scratch,
                      Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  if (s.B * s.T * s.C == 0) return Status::Ok();
  if (s.dtype == DType::kFloat32) {
    RunForward(s, static_cast<const float*>(x), static_cast<float*>(y), scratch, executor);
  } else {
    RunForward(s, static_cast<const BFloat16*>(x), static_cast<BFloat16*>(y), scratch, executor);
  }
  return Status::Ok();
}

Status FftUpsampleBwd(const FftUpsampleShape& s, const void* dy, void* dx, float* scratch,
                      Executor& executor) {
  if (Status status = Check(s); !status.ok()) return status;
  if (s.B * s.T * s.C == 0) return Status::Ok();
  if (s.dtype == DType::kFloat32) {
    RunBackward(s, static_cast<const float*>(dy), static_cast<float*>(dx), scratch, executor);
  } else {
    RunBackward(s, static_cast<const BFloat16*>(dy), static_cast<BFloat16*>(dx), scratch, executor);
  }
  return Status::Ok();
}

}  // namespace n2m
