// A problem of conv1d_block with random numbers, and the formulas of its README in float64. What
// runs it is the test's: the launchers of the processor, or those of CUDA.
#pragma once

#include "check.h"

namespace n2m_test {

using n2m::Conv1dBlockShape;

inline Conv1dBlockShape Shape(int64_t B, int64_t T, int64_t C, int64_t K, int64_t D,
                              int64_t stride = 1) {
  Conv1dBlockShape s;
  s.batch = B;
  s.time = T;
  s.channels = C;
  s.kernel = K;
  s.out_channels = D;
  s.stride = stride;
  return s;
}

inline std::string NameOf(const Conv1dBlockShape& s) {
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

inline Conv1dBlockShape With(Conv1dBlockShape s, int64_t groups, int64_t out_groups, int64_t R) {
  s.groups = groups;
  s.out_groups = out_groups;
  s.residual_channels = R;
  return s;
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

// Largest errors over the largest exact value: of y and what is of its dtype, of the sums of y, and
// of gradients that are float32 whatever the dtypes are.
struct Tolerances {
  double value, sums, gradient_of_x, gradient;
};

inline void ExpectRight(const Problem& p, const Outputs& o, const Tolerances& tolerances) {
  const Exact exact(p, o);
  const std::string name = NameOf(p.s);
  ExpectClose(o.y, exact.y, tolerances.value, name + " y");
  ExpectClose(o.out_sums, exact.out_sums, tolerances.sums, name + " sums of y");
  ExpectClose(o.dx, exact.dx, tolerances.gradient_of_x, name + " dx");
  ExpectClose(o.dresidual, exact.dresidual, tolerances.gradient_of_x, name + " dresidual");
  ExpectClose(o.dscale, exact.dscale, tolerances.gradient, name + " dscale");
  ExpectClose(o.dshift, exact.dshift, tolerances.gradient, name + " doffset");
  ExpectClose(o.dsums, exact.dsums, tolerances.gradient, name + " dsums");
  ExpectClose(o.dweight, exact.dweight, tolerances.gradient, name + " dweight");
  ExpectClose(o.dbias, exact.dbias, tolerances.gradient, name + " dbias");
  ExpectClose(o.dfc, exact.dfc, tolerances.gradient, name + " dfc");
}

}  // namespace n2m_test
