// conv1d_block, forward and backward, against the formulas of its README in float64.
#include <cstdlib>
#include <limits>

#include "conv1d_block_problem.h"

namespace {

using namespace n2m_test;

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

void Compare(const Conv1dBlockShape& s, int64_t offset, uint64_t seed, n2m::Executor& executor,
             bool has_bias = true) {
  const Problem p(s, offset, seed, has_bias);
  const double tolerance = Tolerance(s.dtype), single = Tolerance(DType::kFloat32);
  // With bfloat16 weights or activations the operands of a gradient may be rounded on the way.
  const bool half = s.dtype == DType::kBFloat16 || s.weight_dtype == DType::kBFloat16;
  ExpectRight(p, Run(p, offset, executor),
              {tolerance, single, tolerance, half ? tolerance + 1e-2 : single});
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
  if (std::getenv("NOISE2MUSIC_CONV1D") == nullptr) {
    Expect(n2m::Conv1dBlockPlan(few).find("forward: direct, few rows") == 0, "plan of few rows");
  }
  Compare(few, 1, 11, pool);
  Compare(With(Shape(2, 21, 200, 5, 96, 3), 4, 4, 0), 3, 12, alone);
  Conv1dBlockShape half = With(Shape(1, 9, 180, 2, 160), 0, 0, 170);
  Compare(half, 0, 13, pool);
  half.dtype = half.weight_dtype = DType::kBFloat16;
  Compare(half, 1, 14, pool);
  // Parts, segments, waves and chunks of the matrix tiles; phases of a stride.
  half = With(Shape(2, 530, 40, 7, 72), 8, 8, 40);
  half.dtype = half.weight_dtype = DType::kBFloat16;
  Compare(half, 1, 15, pool);
  half = With(Shape(1, 700, 33, 5, 34, 4), 11, 2, 5);
  half.dtype = DType::kBFloat16;
  Compare(half, 0, 16, pool);
  // One output of many tiles, and the gradient of one input, are dot products along the channels.
  Compare(With(Shape(1, 3301, 20, 7, 1), 4, 1, 5), 1, 17, pool);
  Compare(With(Shape(2, 3100, 37, 3, 1, 2), 0, 0, 33), 0, 18, alone);
  Compare(With(Shape(1, 3301, 1, 5, 24), 1, 4, 0), 3, 19, pool);
  half = With(Shape(1, 3200, 40, 5, 1), 8, 0, 0);
  half.dtype = half.weight_dtype = DType::kBFloat16;
  Compare(half, 1, 20, pool);
  // Where there are matrix tiles float32 goes there for a residual, a stride and a single tap.
  Conv1dBlockShape tiles = With(Shape(2, 70, 136, 7, 150), 8, 10, 130);
  Compare(tiles, 0, 21, pool);
  tiles.weight_dtype = DType::kBFloat16;
  Compare(tiles, 1, 22, pool);
  Compare(With(Shape(1, 101, 130, 5, 140, 2), 10, 4, 0), 1, 23, pool);
  Compare(Shape(2, 30, 140, 1, 130), 3, 24, pool);
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
