// A problem of combine_film, and its solution in float64; for the tests of every platform.
#pragma once

#include "check.h"

namespace n2m_test {

using n2m::CombineFilmShape;

inline std::string NameOf(const CombineFilmShape& s) {
  return Name(s.dtype == DType::kFloat32 ? "float32" : "bfloat16", s.B, s.T, s.C, s.E, s.G);
}

struct Problem {
  Problem(const CombineFilmShape& shape, int64_t offset, uint64_t seed)
      : s(shape),
        random(seed),
        x(Array::Normal(random, s.B * s.T * s.C, s.dtype, offset)),
        emb(Array::Normal(random, s.B * s.E, DType::kFloat32, offset)),
        kernel(Array::Normal(random, s.E * 2 * s.C, DType::kFloat32, offset, 0.3)),
        bias(Array::Normal(random, 2 * s.C, DType::kFloat32, offset)),
        dy(Array::Normal(random, s.B * s.T * s.C, s.dtype, offset)),
        dsums(Array::Normal(random, s.B * s.G * 2, DType::kFloat32, offset, 0.01)) {}

  CombineFilmShape s;
  Random random;
  Array x, emb, kernel, bias, dy, dsums;
};

struct Outputs {
  Outputs(const CombineFilmShape& s, int64_t offset)
      : y(s.B * s.T * s.C, s.dtype, offset),
        sums(s.B * s.G * 2, DType::kFloat32, offset),
        dx(s.B * s.T * s.C, s.dtype, offset),
        dfilm(s.B * 2 * s.C, DType::kFloat32, offset),
        demb(s.B * s.E, DType::kFloat32, offset),
        dkernel(s.E * 2 * s.C, DType::kFloat32, offset),
        dbias(2 * s.C, DType::kFloat32, offset) {}
  Array y, sums, dx, dfilm, demb, dkernel, dbias;
};

// What `run` makes of a problem against the formula.
template <class Run>
void ExpectRight(const CombineFilmShape& s, int64_t offset, uint64_t seed, const Run& run) {
  const Problem p(s, offset, seed);
  const Outputs o = run(p);
  std::vector<double> y(s.B * s.T * s.C), dx(y.size()), sums(s.B * s.G * 2);
  std::vector<double> dfilm(s.B * 2 * s.C), demb(s.B * s.E), dkernel(s.E * 2 * s.C), dbias(2 * s.C);
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t c = 0; c < s.C; ++c) {
      double scale = 1 + p.bias[c], shift = p.bias[s.C + c];
      for (int64_t e = 0; e < s.E; ++e) {
        scale += p.emb[b * s.E + e] * p.kernel[e * 2 * s.C + c];
        shift += p.emb[b * s.E + e] * p.kernel[e * 2 * s.C + s.C + c];
      }
      double* film = dfilm.data() + b * 2 * s.C + c;
      for (int64_t t = 0; t < s.T; ++t) {
        const int64_t at = (b * s.T + t) * s.C + c;
        y[at] = p.x[at] * scale + shift;
        double q = p.dy[at];
        if (s.G > 0) {
          const int64_t pair = (b * s.G + c / (s.C / s.G)) * 2;
          sums[pair] += o.y[at];  // of y as stored
          sums[pair + 1] += o.y[at] * o.y[at];
          q += p.dsums[pair] + 2 * y[at] * p.dsums[pair + 1];
        }
        dx[at] = q * scale;
        film[0] += q * p.x[at];
        film[s.C] += q;
      }
    }
    for (int64_t j = 0; j < 2 * s.C; ++j) {
      const double d = o.dfilm[b * 2 * s.C + j];
      dbias[j] += d;
      for (int64_t e = 0; e < s.E; ++e) {
        demb[b * s.E + e] += d * p.kernel[e * 2 * s.C + j];
        dkernel[e * 2 * s.C + j] += d * p.emb[b * s.E + e];
      }
    }
  }
  const std::string name = NameOf(s);
  const double single = Tolerance(DType::kFloat32);
  ExpectClose(o.y, y, Tolerance(s.dtype), name + " y");
  ExpectClose(o.sums, sums, single, name + " sums");
  ExpectClose(o.dx, dx, Tolerance(s.dtype), name + " dx");
  ExpectClose(o.dfilm, dfilm, single, name + " dfilm");
  ExpectClose(o.demb, demb, single, name + " demb");
  ExpectClose(o.dkernel, dkernel, single, name + " dkernel");
  ExpectClose(o.dbias, dbias, single, name + " dbias");
}

inline CombineFilmShape Shape(int64_t B, int64_t T, int64_t C, int64_t E, int64_t G, DType dtype) {
  CombineFilmShape s;
  s.B = B;
  s.T = T;
  s.C = C;
  s.E = E;
  s.G = G;
  s.dtype = dtype;
  return s;
}

}  // namespace n2m_test
