// conv1d_block, forward and backward, against the formulas of its README in float64.
#include <limits>

#include "check.h"

namespace {

using namespace n2m_test;
using n2m::Conv1dBlockShape;

Conv1dBlockShape Shape(int64_t B, int64_t T, int64_t C, int64_t K, int64_t D, int64_t stride = 1) {
  Conv1dBlockShape s;
  s.batch = B;
  s.time = T;
  s.channels = C;
  s.kernel = K;
  s.out_channels = D;
  s.stride = stride;
  return s;
}

std::string NameOf(const Conv1dBlockShape& s) {
  return Name("conv", s.batch, s.time, s.channels, s.kernel, s.out_channels, s.stride, s.groups,
              s.out_groups, s.residual_channels, static_cast<int>(s.dtype),
              static_cast<int>(s.weight_dtype));
}

struct Problem {
  Problem(const Conv1dBlockShape& shape, int64_t offset, uint64_t seed, bool has_bias = true)
      : s(shape),
        out(n2m::Conv1dBlockOutTime(s)),
        random(seed),
        x(Array::Normal(random, s.batch * s.time * s.channels, s.dtype, offset)),
        weight(Array::Normal(random, s.kernel * s.channels * s.out_channels, s.weight_dtype, offset,
                             1 / std::sqrt(1.0 * s.kernel * s.channels))),
        bias(Array::Normal(random, has_bias ? s.out_channels : 0, DType::kFloat32, offset)),
        scale(Array::Normal(random, s.channels, DType::kFloat32, offset)),
        shift(Array::Normal(random, s.channels, DType::kFloat32, offset)),
        sums(s.batch * s.groups * 2, DType::kFloat32, offset),
        residual(Array::Normal(random, s.batch * out * s.residual_channels, s.dtype, offset)),
        fc(Array::Normal(random, s.residual_channels * s.out_channels, s.weight_dtype, offset,
                         0.2)),
        dy(Array::Normal(random, s.batch * out * s.out_channels, s.dtype, offset)),
        dsums(Array::Normal(random, s.batch * s.out_groups * 2, DType::kFloat32, offset, 0.01)) {
    Array scratch(n2m::GroupSumsScratch(s.batch, s.time, s.channels, s.groups));
    if (s.groups > 0) {
      ExpectOk(n2m::GroupSums(x.data(), s.dtype, s.batch, s.time, s.channels, s.groups,
                              sums.floats(), scratch.data(), n2m::SerialExecutor()),
               "GroupSums");
    }
  }
  n2m::Conv1dBlockInputs Inputs() const {
    n2m::Conv1dBlockInputs in;
    in.x = x.data();
    in.weight = weight.data();
    in.bias = bias.size() > 0 ? bias.floats() : nullptr;
    if (s.groups > 0) {
      in.scale = scale.floats();
      in.offset = shift.floats();
      in.sums = sums.floats();
    }
    if (s.residual_channels > 0) {
      in.residual = residual.data();
      in.fc = fc.data();
    }
    return in;
  }

  Conv1dBlockShape s;
  int64_t out;
  Random random;
  Array x, weight, bias, scale, shift, sums, residual, fc, dy, dsums;
};

struct Outputs {
  Outputs(const Problem& p, int64_t offset)
      : y(p.dy.size(), p.s.dtype, offset),
        out_sums(p.dsums.size(), DType::kFloat32, offset),
        dx(p.x.size(), p.s.dtype, offset),
        dscale(p.s.groups > 0 ? p.s.batch * p.s.channels : 0, DType::kFloat32, offset),
        dshift(dscale.size(), DType::kFloat32, offset),
        dsums(p.sums.size(), DType::kFloat32, offset),
        dresidual(p.residual.size(), p.s.dtype, offset),
        dweight(p.weight.size(), DType::kFloat32, offset),
        dbias(p.bias.size(), DType::kFloat32, offset),
        dfc(p.fc.size(), DType::kFloat32, offset) {}
  Array y, out_sums, dx, dscale, dshift, dsums, dresidual, dweight, dbias, dfc;
};

Outputs Run(const Problem& p, int64_t offset, n2m::Executor& executor) {
  const Conv1dBlockShape& s = p.s;
  Outputs o(p, offset);
  const int threads = executor.num_threads();
  const n2m::Conv1dBlockInputs in = p.Inputs();
  Array scratch(n2m::Conv1dBlockFwdScratch(s, threads));
  ExpectOk(n2m::Conv1dBlockFwd(s, in, o.y.data(), o.out_sums.floats(), scratch.data(), executor),
           NameOf(s));
  n2m::Conv1dBlockCotangents cotangents;
  cotangents.dy = p.dy.data();
  cotangents.y = o.y.data();
  cotangents.d_out_sums = p.dsums.floats();
  n2m::Conv1dBlockGradients gradients;
  gradients.dx = o.dx.data();
  gradients.dscale = o.dscale.floats();
  gradients.doffset = o.dshift.floats();
  gradients.dsums = o.dsums.floats();
  gradients.dresidual = o.dresidual.data();
  Array second(n2m::Conv1dBlockBwdScratch(s, threads));
  ExpectOk(n2m::Conv1dBlockBwd(s, in, cotangents, gradients, second.data(), executor), NameOf(s));
  Array third(n2m::Conv1dBlockBwdWeightScratch(s, threads));
  ExpectOk(n2m::Conv1dBlockBwdWeight(s, in, cotangents, o.dweight.floats(),
                                     p.bias.size() > 0 ? o.dbias.floats() : nullptr, o.dfc.floats(),
                                     third.data(), executor),
           NameOf(s));
  return o;
}

// The same in float64. Reads y and its sums' group sizes from what was computed, as the kernel
// does.
struct Exact {
  std::vector<double> y, out_sums, dx, dscale, dshift, dsums, dresidual, dweight, dbias, dfc;

  Exact(const Problem& p, const Outputs& o) {
    const Conv1dBlockShape& s = p.s;
    const int64_t B = s.batch, T = s.time, C = s.channels, K = s.kernel, D = s.out_channels;
    const int64_t R = s.residual_channels, U = p.out;
    const int64_t pad = std::max<int64_t>((U - 1) * s.stride + K - T, 0) / 2;
    const int64_t width = s.groups > 0 ? C / s.groups : 1;
    const double count = static_cast<double>(T * width);
    std::vector<double> h(B * T * C), dh(h.size()), g(B * U * D);
    for (int64_t i = 0; i < B * T * C; ++i) {
      const double u = s.groups > 0 ? Normalised(p, i, width, count) : 0;
      h[i] = s.groups > 0 ? u / (1 + std::exp(-u)) : p.x[i];
    }
    y.resize(B * U * D);
    out_sums.resize(B * s.out_groups * 2);
    dweight.resize(K * C * D);
    dbias.resize(p.bias.size());
    dresidual.resize(B * U * R);
    dfc.resize(R * D);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t u = 0; u < U; ++u) {
        for (int64_t d = 0; d < D; ++d) {
          const int64_t at = (b * U + u) * D + d;
          double sum = p.bias.size() > 0 ? p.bias[d] : 0;
          g[at] = p.dy[at];
          if (s.out_groups > 0) {
            const int64_t pair = (b * s.out_groups + d / (D / s.out_groups)) * 2;
            g[at] += p.dsums[pair] + 2 * o.y[at] * p.dsums[pair + 1];
            out_sums[pair] += o.y[at];
            out_sums[pair + 1] += o.y[at] * o.y[at];
          }
          for (int64_t k = 0; k < K; ++k) {
            const int64_t t = u * s.stride + k - pad;
            if (t < 0 || t >= T) continue;
            for (int64_t c = 0; c < C; ++c) {
              const int64_t from = (b * T + t) * C + c, w = (k * C + c) * D + d;
              sum += h[from] * p.weight[w];
              dh[from] += g[at] * p.weight[w];
              dweight[w] += g[at] * h[from];
            }
          }
          for (int64_t r = 0; r < R; ++r) {
            const int64_t from = (b * U + u) * R + r;
            sum += p.residual[from] * p.fc[r * D + d];
            dresidual[from] += g[at] * p.fc[r * D + d];
            dfc[r * D + d] += g[at] * p.residual[from];
          }
          y[at] = sum;
          if (p.bias.size() > 0) dbias[d] += g[at];
        }
      }
    }
    dx = dh;
    if (s.groups > 0) Normalisation(p, dh, width, count);
  }

 private:
  struct Moments {
    double mean, variance, rstd;
  };
  static Moments MomentsOf(const Problem& p, int64_t b, int64_t c, int64_t width, double count) {
    const int64_t pair = (b * p.s.groups + c / width) * 2;
    const double mean = p.sums[pair] / count;
    const double variance = std::max(p.sums[pair + 1] / count - mean * mean, 0.0);
    return {mean, variance, 1 / std::sqrt(variance + p.s.eps)};
  }
  static double Normalised(const Problem& p, int64_t i, int64_t width, double count) {
    const int64_t c = i % p.s.channels, b = i / (p.s.time * p.s.channels);
    const Moments m = MomentsOf(p, b, c, width, count);
    return (p.x[i] - m.mean) * m.rstd * p.scale[c] + p.shift[c];
  }
  void Normalisation(const Problem& p, const std::vector<double>& dh, int64_t width, double count) {
    const int64_t B = p.s.batch, T = p.s.time, C = p.s.channels;
    dscale.assign(B * C, 0);
    dshift.assign(B * C, 0);
    dsums.assign(B * p.s.groups * 2, 0);
    for (int64_t b = 0; T > 0 && b < B; ++b) {
      for (int64_t c = 0; c < C; ++c) {
        const Moments m = MomentsOf(p, b, c, width, count);
        double P = 0, Q = 0;
        for (int64_t t = 0; t < T; ++t) {
          const int64_t i = (b * T + t) * C + c;
          const double u = Normalised(p, i, width, count), sigmoid = 1 / (1 + std::exp(-u));
          const double du = dh[i] * sigmoid * (1 + u * (1 - sigmoid));
          P += du;
          Q += du * (p.x[i] - m.mean);
          dx[i] = du * m.rstd * p.scale[c];
        }
        dshift[b * C + c] = P;
        dscale[b * C + c] = m.rstd * Q;
        const double dmean = -m.rstd * p.scale[c] * P;
        const double dvar = m.variance > 0 ? -0.5 * m.rstd * m.rstd * m.rstd * p.scale[c] * Q : 0;
        double* pair = dsums.data() + (b * p.s.groups + c / width) * 2;
        pair[0] += (dmean - 2 * m.mean * dvar) / count;
        pair[1] += dvar / count;
      }
    }
  }
};

void Compare(const Conv1dBlockShape& s, int64_t offset, uint64_t seed, n2m::Executor& executor,
             bool has_bias = true) {
  const Problem p(s, offset, seed, has_bias);
  const Outputs o = Run(p, offset, executor);
  const Exact exact(p, o);
  const double tolerance = Tolerance(s.dtype), single = Tolerance(DType::kFloat32);
  const std::string name = NameOf(s);
  ExpectClose(o.y, exact.y, tolerance, name + " y");
  ExpectClose(o.out_sums, exact.out_sums, single, name + " sums of y");
  ExpectClose(o.dx, exact.dx, tolerance, name + " dx");
  ExpectClose(o.dresidual, exact.dresidual, tolerance, name + " dresidual");
  // With bfloat16 weights or activations the operands of a gradient may be rounded on the way.
  const bool half = s.dtype == DType::kBFloat16 || s.weight_dtype == DType::kBFloat16;
  const double gradient = half ? tolerance + 1e-2 : single;
  ExpectClose(o.dscale, exact.dscale, gradient, name + " dscale");
  ExpectClose(o.dshift, exact.dshift, gradient, name + " doffset");
  ExpectClose(o.dsums, exact.dsums, gradient, name + " dsums");
  ExpectClose(o.dweight, exact.dweight, gradient, name + " dweight");
  ExpectClose(o.dbias, exact.dbias, gradient, name + " dbias");
  ExpectClose(o.dfc, exact.dfc, gradient, name + " dfc");
}

Conv1dBlockShape With(Conv1dBlockShape s, int64_t groups, int64_t out_groups, int64_t R) {
  s.groups = groups;
  s.out_groups = out_groups;
  s.residual_channels = R;
  return s;
}

void TestValues(n2m::Executor& pool) {
  n2m::Executor& alone = n2m::SerialExecutor();
  Compare(With(Shape(2, 1, 4, 7, 6), 2, 3, 5), 1, 1, alone);      // one sample
  Compare(With(Shape(1, 3, 8, 9, 8), 2, 0, 0), 0, 2, alone);      // shorter than the kernel
  Compare(With(Shape(1, 33, 1, 3, 17), 1, 1, 1), 3, 3, alone);    // one channel
  Compare(Shape(1, 40, 5, 2, 9, 5), 2, 4, alone);                 // stride beyond the kernel
  Compare(With(Shape(1, 150, 40, 7, 40), 8, 8, 40), 1, 5, pool);  // several tiles
  Compare(With(Shape(1, 70, 150, 5, 24), 30, 4, 0), 0, 6, pool);  // a long reduction
  // Few rows: panels of weights in groups, of which the last is smaller; two taps a chunk.
  Compare(With(Shape(1, 17, 50, 5, 300, 4), 5, 4, 30), 0, 8, alone);
  // Weights read in place, in whole panels of every instruction set, at any address; two clips a
  // tile; a strided phase. The first is large enough that the planner goes direct for its few rows.
  const Conv1dBlockShape few = With(Shape(1, 17, 360, 7, 960), 36, 4, 200);
  Expect(n2m::Conv1dBlockPlan(few).find("forward: direct, few rows") == 0, "plan of few rows");
  Compare(few, 1, 11, pool);
  Compare(With(Shape(2, 21, 200, 5, 96, 3), 4, 4, 0), 3, 12, alone);
  Compare(With(Shape(1, 9, 180, 2, 160), 0, 0, 170), 0, 13, pool);
  // A gradient of a weight that goes past the caches, with rows of every alignment.
  Compare(With(Shape(1, 17, 700, 5, 601), 7, 0, 0), 0, 9, pool);
  for (int64_t K : {3, 5, 7, 9}) {  // the presets' kernels
    Compare(With(Shape(2, 97, 32, K, 32), 4, 4, 32), 0, 7, pool);
  }
  for (int i = 0; i < 30; ++i) {
    Random random(100 + i);
    Conv1dBlockShape s =
        Shape(random.Int(1, 2), random.Int(1, 60), random.Int(1, 40), random.Int(1, 9),
              random.Int(1, 40), random.Coin() ? 1 : random.Int(2, 5));
    if (random.Coin()) s.groups = random.DivisorOf(s.channels);
    if (random.Coin()) s.out_groups = random.DivisorOf(s.out_channels);
    if (random.Coin()) s.residual_channels = random.Int(1, 20);
    if (i % 3 == 0) s.dtype = DType::kBFloat16;
    if (i % 5 == 0) s.weight_dtype = DType::kBFloat16;
    // A group of a few values may have nearly no variance: its gradient is then all rounding.
    if (s.groups > 0 && s.time * (s.channels / s.groups) < 8) s.groups = 0;
    Compare(s, random.Int(0, 3), i, random.Coin() ? pool : alone, random.Coin());
  }
}

void TestEmpty() {
  Compare(With(Shape(0, 8, 8, 3, 8), 2, 2, 4), 0, 1, n2m::SerialExecutor());
  Compare(With(Shape(2, 0, 8, 3, 8), 2, 2, 4), 0, 1, n2m::SerialExecutor());
}

void TestThreadsAndBatchChangeNothing() {
  const Conv1dBlockShape s = With(Shape(2, 200, 32, 7, 48), 4, 4, 16);
  const Problem p(s, 0, 11);
  const Outputs one = Run(p, 0, n2m::SerialExecutor());
  for (int threads : {2, 3, 7}) {
    const auto pool = n2m::MakeThreadPool(threads);
    const Outputs o = Run(p, 0, *pool);
    Expect(one.y.SameBits(o.y) && one.out_sums.SameBits(o.out_sums) && one.dx.SameBits(o.dx) &&
               one.dweight.SameBits(o.dweight) && one.dscale.SameBits(o.dscale) &&
               one.dsums.SameBits(o.dsums) && one.dresidual.SameBits(o.dresidual) &&
               one.dbias.SameBits(o.dbias) && one.dfc.SameBits(o.dfc),
           Name("bits with threads", threads));
  }
  Conv1dBlockShape first = s;
  first.batch = 1;
  n2m::Conv1dBlockInputs in = p.Inputs();  // the first clip alone: the same pointers
  Array y(one.y.size() / 2), sums(one.out_sums.size() / 2);
  Array scratch(n2m::Conv1dBlockFwdScratch(first, 1));
  ExpectOk(n2m::Conv1dBlockFwd(first, in, y.data(), sums.floats(), scratch.data(),
                               n2m::SerialExecutor()),
           "first clip");
  Expect(std::memcmp(y.data(), one.y.data(), y.size() * 4) == 0, "bits of a clip alone");
}

// One NaN reaches the outputs whose window holds it, and through the norm its whole group.
void TestNotFinite() {
  Conv1dBlockShape s = Shape(2, 50, 8, 3, 6);
  Problem p(s, 0, 12);
  p.x.Set(20 * 8 + 3, std::numeric_limits<double>::quiet_NaN());
  const Outputs o = Run(p, 0, n2m::SerialExecutor());
  for (int64_t i = 0; i < o.y.size(); ++i) {
    const int64_t u = i / 6;
    if (u >= 19 && u <= 21) Expect(std::isnan(o.y[i]), Name("NaN lost", i));
    if (u >= 50) Expect(std::isfinite(o.y[i]), Name("NaN in another clip", i));
  }
}

void TestRefused() {
  const auto refused = [](const Conv1dBlockShape& s, const char* what) {
    float none[16] = {};
    n2m::Executor& e = n2m::SerialExecutor();
    n2m::Conv1dBlockInputs in;
    Expect(n2m::Conv1dBlockFwdScratch(s, 2) == 0 && n2m::Conv1dBlockBwdScratch(s, 2) == 0 &&
               n2m::Conv1dBlockBwdWeightScratch(s, 2) == 0,
           what);
    ExpectRefused(n2m::Conv1dBlockFwd(s, in, none, none, none, e), "conv1d_block", what);
    ExpectRefused(n2m::Conv1dBlockBwd(s, in, {}, {}, none, e), "conv1d_block", what);
    ExpectRefused(n2m::Conv1dBlockBwdWeight(s, in, {}, none, none, none, none, e), "conv1d_block",
                  what);
  };
  refused(Shape(-1, 4, 4, 3, 4), "a negative batch");
  refused(Shape(1, -4, 4, 3, 4), "a negative time");
  refused(Shape(1, 4, 0, 3, 4), "no channels");
  refused(Shape(1, 4, 4, 0, 4), "no taps");
  refused(Shape(1, 4, 4, 3, 0), "no outputs");
  refused(Shape(1, 4, 4, 3, 4, 0), "stride 0");
  refused(With(Shape(1, 4, 4, 3, 4), 3, 0, 0), "3 groups of 4");
  refused(With(Shape(1, 4, 4, 3, 4), 0, 3, 0), "3 groups of 4 outputs");
  refused(With(Shape(1, 4, 4, 3, 4), 0, 0, -2), "a negative residual");
  refused(Shape(kHuge, kHuge, 4, 3, 4), "a size past 2^63");
  refused(Shape(1, 1, kHuge, 3, kHuge), "a weight past 2^63");
}

}  // namespace

int main() {
  const auto pool = n2m::MakeThreadPool(3);
  TestValues(*pool);
  TestEmpty();
  TestThreadsAndBatchChangeNothing();
  TestNotFinite();
  TestRefused();
  return Report("conv1d_block");
}
