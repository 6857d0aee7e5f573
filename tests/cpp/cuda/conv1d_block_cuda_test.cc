// The CUDA kernels of conv1d_block, run by the emulation, against the formulas of the README in
// float64.
//
//   conv1d_block_cuda_test [ffma | mma_sync | wgmma]    one of the three kernels, or all
#include "kernels/conv1d_block/conv1d_block_cuda.cu"
#include "tests/cpp/kernels/conv1d_block_problem.h"

namespace {

using namespace n2m_test;
namespace cuda = n2m::cuda;

Outputs Run(const Problem& p, int64_t offset) {
  const Conv1dBlockShape& s = p.s;
  Outputs o(p, offset);
  const n2m::Conv1dBlockInputs in = p.Inputs();
  Array first(cuda::Conv1dBlockFwdScratch(s)), second(cuda::Conv1dBlockBwdScratch(s));
  Array third(cuda::Conv1dBlockBwdWeightScratch(s));
  ExpectOk(cuda::Conv1dBlockFwd(s, in, o.y.data(), o.out_sums.floats(), first.data(), nullptr),
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
  ExpectOk(cuda::Conv1dBlockBwd(s, in, cotangents, gradients, second.data(), nullptr), NameOf(s));
  ExpectOk(cuda::Conv1dBlockBwdWeight(s, in, cotangents, o.dweight.floats(),
                                      p.bias.size() > 0 ? o.dbias.floats() : nullptr,
                                      o.dfc.floats(), third.data(), nullptr),
           NameOf(s));
  return o;
}

// tests/tolerances.py: VALUE and GRADIENT.
void Compare(const Conv1dBlockShape& s, uint64_t seed, bool has_bias = true) {
  const Problem p(s, 0, seed, has_bias);
  const bool half = s.dtype == DType::kBFloat16;
  ExpectRight(p, Run(p, 0), {half ? 5e-3 : 5e-6, 5e-6, half ? 1e-2 : 1e-5, half ? 1e-2 : 1e-5});
}

Conv1dBlockShape Typed(Conv1dBlockShape s, DType dtype, DType weight_dtype) {
  s.dtype = dtype;
  s.weight_dtype = weight_dtype;
  return s;
}

void TestValues(DType dtype) {
  const DType other = dtype == DType::kFloat32 ? DType::kBFloat16 : DType::kFloat32;
  const auto same = [&](const Conv1dBlockShape& s) { return Typed(s, dtype, dtype); };
  for (int64_t K : {3, 5, 7, 9}) {
    for (int64_t stride : {1, 2, 3, 4, 5}) {
      Compare(same(With(Shape(2, 37 + stride, 24, K, 16, stride), 4, 4, K == 5 ? 8 : 0)), K);
    }
  }
  Compare(same(With(Shape(2, 150, 72, 7, 136), 8, 8, 40)), 1);  // several tiles of everything
  Compare(same(With(Shape(9, 23, 16, 7, 24), 4, 4, 16)), 2);    // many clips a tile
  cuda_emulation::processors = 132;  // more than tiles: the reduction is split
  Compare(same(With(Shape(2, 140, 400, 3, 24), 8, 4, 72)), 11);
  Compare(same(With(Shape(2, 30, 264, 3, 16, 2), 8, 4, 0)), 12);
  cuda_emulation::processors = 4;
  Compare(same(With(Shape(40, 1, 8, 3, 8), 2, 2, 8)), 3);        // one sample a clip
  Compare(same(With(Shape(2, 101, 31, 7, 23), 31, 23, 13)), 4);  // nothing divides anything
  // One channel. Its doffset is one small sum: not where rounding dy again would be most of it.
  Compare(same(With(Shape(1, 33, 1, 3, 17), 1, dtype == DType::kFloat32 ? 1 : 0, 1)), 5);
  Compare(same(Shape(1, 40, 5, 2, 9, 5)), 6, false);         // stride beyond the kernel
  Compare(same(With(Shape(1, 60, 16, 40, 8), 2, 2, 0)), 7);  // more taps than a tile of x serves
  Compare(Typed(With(Shape(2, 29, 12, 5, 16), 3, 4, 6), dtype, other), 8);
  Compare(same(With(Shape(0, 8, 8, 3, 8), 2, 2, 4)), 9);
  Compare(same(With(Shape(2, 0, 8, 3, 8), 2, 2, 4)), 10);
}

// Every number of rows of a tile on Hopper, with whole and split reductions, clips that end within
// a tile, strides, and tiles that finish_shares' own do not divide.
void TestTileRows() {
  const auto half = [](const Conv1dBlockShape& s) {
    return Typed(s, DType::kBFloat16, DType::kBFloat16);
  };
  for (const char* rows : {"64", "128", "192", "256"}) {
    setenv("NOISE2MUSIC_CONV1D_CUDA_ROWS", rows, 1);
    Compare(half(With(Shape(2, 150, 72, 7, 136), 8, 8, 40)), 21);
    Compare(half(With(Shape(9, 23, 16, 5, 24, 2), 4, 4, 0)), 22);
    cuda_emulation::processors = 132;
    Compare(half(With(Shape(3, 46, 200, 3, 24), 8, 4, 72)), 23);
    Compare(half(With(Shape(1, 200, 264, 3, 16), 8, 4, 0)), 24);
    cuda_emulation::processors = 4;
  }
  unsetenv("NOISE2MUSIC_CONV1D_CUDA_ROWS");
}

// Threads may run in any order, and wgmma may read its operands at once or as late as it is waited
// for.
void TestBitEqual(DType dtype) {
  const Conv1dBlockShape s = Typed(With(Shape(2, 140, 72, 5, 40), 8, 4, 72), dtype, dtype);
  const Problem p(s, 0, 13);
  const Outputs once = Run(p, 0);
  const auto same = [&](const char* what) {
    const Outputs o = Run(p, 0);
    Expect(once.y.SameBits(o.y) && once.out_sums.SameBits(o.out_sums) && once.dx.SameBits(o.dx) &&
               once.dscale.SameBits(o.dscale) && once.dshift.SameBits(o.dshift) &&
               once.dsums.SameBits(o.dsums) && once.dresidual.SameBits(o.dresidual) &&
               once.dweight.SameBits(o.dweight) && once.dbias.SameBits(o.dbias) &&
               once.dfc.SameBits(o.dfc),
           what);
  };
  cuda_emulation::fiber_order = cuda_emulation::Order::kBackward;
  same("threads from the last to the first");
  cuda_emulation::wgmma_is_late = false;
  same("wgmma at once, threads from the last to the first");
  cuda_emulation::fiber_order = cuda_emulation::Order::kForward;
  same("wgmma at once");
  cuda_emulation::wgmma_is_late = true;
}

void TestRefused() {
  float none[16] = {};
  const auto refused = [&](const Conv1dBlockShape& s, const char* what) {
    Expect(cuda::Conv1dBlockFwdScratch(s) == 0 && cuda::Conv1dBlockBwdScratch(s) == 0 &&
               cuda::Conv1dBlockBwdWeightScratch(s) == 0,
           what);
    ExpectRefused(cuda::Conv1dBlockFwd(s, {}, none, none, none, nullptr), "conv1d_block", what);
    ExpectRefused(cuda::Conv1dBlockBwd(s, {}, {}, {}, none, nullptr), "conv1d_block", what);
    ExpectRefused(cuda::Conv1dBlockBwdWeight(s, {}, {}, none, none, none, none, nullptr),
                  "conv1d_block", what);
  };
  refused(Shape(-1, 4, 4, 3, 4), "a negative batch");
  refused(With(Shape(1, 4, 4, 3, 4), 3, 0, 0), "3 groups of 4");
  refused(Shape(1 << 20, 1 << 12, 4, 3, 4), "more rows than 2^30");
  refused(Shape(kHuge, kHuge, 4, 3, 4), "a size past 2^63");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  const auto wanted = [&](const char* name) { return only.empty() || only == name; };
  const auto test = [](DType dtype) {
    TestValues(dtype);
    TestBitEqual(dtype);
  };
  if (wanted("ffma")) test(DType::kFloat32);
  if (wanted("mma_sync")) test(DType::kBFloat16);
  cuda_emulation::compute_major = 9;
  if (wanted("wgmma")) {
    test(DType::kBFloat16);
    TestTileRows();
  }
  TestRefused();
  return Report("conv1d_block on emulated CUDA");
}
