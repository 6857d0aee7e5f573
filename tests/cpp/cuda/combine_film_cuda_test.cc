// The CUDA kernels of combine_film, run by the emulation, against the formula in float64.
#include "kernels/combine_film/combine_film_cuda.cu"

#include "tests/cpp/kernels/combine_film_problem.h"

namespace {

using namespace n2m_test;
namespace cuda = n2m::cuda;

Outputs Run(const Problem& p, int64_t offset) {
  Outputs o(p.s, offset);
  const std::string name = NameOf(p.s);
  Array scratch(cuda::CombineFilmFwdScratch(p.s)), more(cuda::CombineFilmBwdScratch(p.s));
  ExpectOk(cuda::CombineFilmFwd(p.s, p.x.data(), p.emb.floats(), p.kernel.floats(), p.bias.floats(),
                                o.y.data(), o.sums.floats(), scratch.floats(), nullptr),
           name);
  ExpectOk(cuda::CombineFilmBwd(p.s, p.x.data(), p.emb.floats(), p.kernel.floats(), p.bias.floats(),
                                p.dy.data(), p.dsums.floats(), o.dx.data(), o.dfilm.floats(),
                                more.floats(), nullptr),
           name);
  ExpectOk(
      cuda::CombineFilmBwdParams(p.s, p.emb.floats(), p.kernel.floats(), o.dfilm.floats(),
                                 o.demb.floats(), o.dkernel.floats(), o.dbias.floats(), nullptr),
      name);
  return o;
}

void Compare(const CombineFilmShape& s, int64_t offset, uint64_t seed) {
  ExpectRight(s, offset, seed, [&](const Problem& p) { return Run(p, offset); });
}

bool SameBits(const Outputs& a, const Outputs& b) {
  return a.y.SameBits(b.y) && a.sums.SameBits(b.sums) && a.dx.SameBits(b.dx) &&
         a.dfilm.SameBits(b.dfilm) && a.demb.SameBits(b.demb) && a.dkernel.SameBits(b.dkernel) &&
         a.dbias.SameBits(b.dbias);
}

void TestValues() {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    // Packs and single values, by channels and by address; one row past a chunk; two columns of
    // blocks of single values.
    for (int64_t C : {1, 3, 8, 24, 31, 64}) {
      for (int64_t G : {int64_t{0}, int64_t{1}, C}) {
        for (int64_t offset : {0, 1}) Compare(Shape(2, 21, C, 5, G, dtype), offset, C);
      }
    }
    Compare(Shape(5, 257, 16, 40, 4, dtype), 0, 5);
    Compare(Shape(1, 33, 262, 3, 131, dtype), 0, 6);
    Random random(7);
    for (int i = 0; i < 8; ++i) {
      const int64_t C = random.Int(1, 80);
      Compare(Shape(random.Int(1, 6), random.Int(1, 300), C, random.Int(0, 40),
                    random.Coin() ? random.DivisorOf(C) : 0, dtype),
              random.Int(0, 1), i);
    }
  }
}

void TestEmpty() {
  for (int64_t zero = 0; zero < 4; ++zero) {
    const int64_t B = zero == 0 ? 0 : 2, T = zero == 1 ? 0 : 5, C = zero == 2 ? 0 : 8;
    Compare(Shape(B, T, C, zero == 3 ? 0 : 3, zero == 2 ? 0 : 2, DType::kFloat32), 0, 1);
  }
}

// Threads may run in any order, and an item may stand in any batch.
void TestBitEqual() {
  const CombineFilmShape s = Shape(3, 150, 40, 6, 5, DType::kBFloat16);
  const Problem p(s, 0, 3);
  const Outputs once = Run(p, 0);
  cuda_emulation::fiber_order = cuda_emulation::Order::kBackward;
  Expect(SameBits(once, Run(p, 0)), "threads from the last to the first");
  cuda_emulation::fiber_order = cuda_emulation::Order::kForward;
}

void TestRefused() {
  float none = 0;
  ExpectRefused(cuda::CombineFilmFwd(Shape(1, 2, 4, 1, 3, DType::kFloat32), &none, &none, &none,
                                     &none, &none, &none, &none, nullptr),
                "combine_film", "3 groups of 4 channels");
}

}  // namespace

int main() {
  TestValues();
  TestEmpty();
  TestBitEqual();
  TestRefused();
  return Report("combine_film on emulated CUDA");
}
