// The launchers of combine_film for the CPU against the formula in float64.
#include <limits>

#include "combine_film_problem.h"

namespace {

using namespace n2m_test;

Outputs Run(const Problem& p, int64_t offset, n2m::Executor& executor) {
  Outputs o(p.s, offset);
  const std::string name = NameOf(p.s);
  Array scratch(n2m::CombineFilmFwdScratch(p.s));
  ExpectOk(n2m::CombineFilmFwd(p.s, p.x.data(), p.emb.floats(), p.kernel.floats(), p.bias.floats(),
                               o.y.data(), o.sums.floats(), scratch.floats(), executor),
           name);
  Array more(n2m::CombineFilmBwdScratch(p.s));
  ExpectOk(n2m::CombineFilmBwd(p.s, p.x.data(), p.emb.floats(), p.kernel.floats(), p.bias.floats(),
                               p.dy.data(), p.dsums.floats(), o.dx.data(), o.dfilm.floats(),
                               more.floats(), executor),
           name);
  ExpectOk(
      n2m::CombineFilmBwdParams(p.s, p.emb.floats(), p.kernel.floats(), o.dfilm.floats(),
                                o.demb.floats(), o.dkernel.floats(), o.dbias.floats(), executor),
      name);
  return o;
}

void Compare(const CombineFilmShape& s, int64_t offset, uint64_t seed, n2m::Executor& executor) {
  ExpectRight(s, offset, seed, [&](const Problem& p) { return Run(p, offset, executor); });
}

void TestValues(n2m::Executor& pool) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (int64_t C : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64}) {
      for (int64_t G : {int64_t{0}, int64_t{1}, C}) {
        Compare(Shape(2, 21, C, 5, G, dtype), C % 4, C, n2m::SerialExecutor());
      }
    }
    Random random(7);
    for (int i = 0; i < 25; ++i) {
      const int64_t C = random.Int(1, 80);
      const CombineFilmShape s = Shape(random.Int(1, 3), random.Int(1, 300), C, random.Int(0, 9),
                                       random.Coin() ? random.DivisorOf(C) : 0, dtype);
      Compare(s, random.Int(0, 3), i, random.Coin() ? pool : n2m::SerialExecutor());
    }
    // One row past a chunk.
    Compare(Shape(2, 257, 16, 3, 4, dtype), 1, 5, pool);
  }
}

void TestEmpty() {
  for (int64_t zero = 0; zero < 4; ++zero) {
    const int64_t B = zero == 0 ? 0 : 2, T = zero == 1 ? 0 : 5, C = zero == 2 ? 0 : 8;
    Compare(Shape(B, T, C, zero == 3 ? 0 : 3, zero == 2 ? 0 : 2, DType::kFloat32), 0, 1,
            n2m::SerialExecutor());
  }
}

void TestThreadsChangeNothing() {
  const CombineFilmShape s = Shape(3, 1000, 40, 6, 5, DType::kFloat32);
  const Problem p(s, 0, 3);
  const Outputs one = Run(p, 0, n2m::SerialExecutor());
  for (int threads : {2, 3, 7}) {
    const auto pool = n2m::MakeThreadPool(threads);
    const Outputs other = Run(p, 0, *pool);
    Expect(one.y.SameBits(other.y) && one.sums.SameBits(other.sums) && one.dx.SameBits(other.dx) &&
               one.dfilm.SameBits(other.dfilm) && one.dkernel.SameBits(other.dkernel) &&
               one.demb.SameBits(other.demb) && one.dbias.SameBits(other.dbias),
           Name("bits with threads", threads));
  }
}

// A large y on a cache line goes past the caches, one beside a line does not: to the same bits.
void TestNontemporal(n2m::Executor& pool) {
  for (const CombineFilmShape& s :
       {Shape(1, 1031, 512, 3, 8, DType::kFloat32), Shape(3, 2741, 64, 3, 0, DType::kFloat32)}) {
    Compare(s, 0, 4, pool);
    const Problem p(s, 0, 4);
    const Outputs past = Run(p, 0, pool), through = Run(p, 1, pool);
    Expect(past.y.SameBits(through.y) && past.sums.SameBits(through.sums),
           "bits past the caches: " + NameOf(s));
    // In place.
    Problem q(s, 0, 4);
    Array sums(through.sums.size()), scratch(n2m::CombineFilmFwdScratch(s));
    ExpectOk(n2m::CombineFilmFwd(s, q.x.data(), q.emb.floats(), q.kernel.floats(), q.bias.floats(),
                                 q.x.data(), sums.floats(), scratch.floats(), pool),
             "in place");
    Expect(q.x.SameBits(through.y) && sums.SameBits(through.sums), "bits in place: " + NameOf(s));
  }
}

// NaN and infinity stay where the formula puts them.
void TestNotFinite() {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (int64_t C : {12, 48}) {  // beside and inside whole vectors
      const CombineFilmShape s = Shape(2, 20, C, 3, 4, dtype);
      for (double bad :
           {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        Problem p(s, 0, 9);
        const int64_t channel = 4, at = (0 * s.T + 7) * C + channel;  // of clip 0
        p.x.Set(at, bad);
        const Outputs o = Run(p, 0, n2m::SerialExecutor());
        for (int64_t i = 0; i < o.y.size(); ++i) {
          Expect(std::isfinite(o.y[i]) == (i != at), Name("y not finite", i));
        }
        for (int64_t i = 0; i < s.B * s.G; ++i) {
          Expect(std::isfinite(o.sums[2 * i + 1]) == (i != channel / (C / s.G)),
                 Name("sums not finite", i));
        }
      }
    }
  }
}

void TestRefused() {
  const auto refused = [](CombineFilmShape s, const char* what) {
    float none = 0;
    n2m::Executor& e = n2m::SerialExecutor();
    (void)n2m::CombineFilmFwdScratch(s);  // whatever it says, it must not overflow
    (void)n2m::CombineFilmBwdScratch(s);
    ExpectRefused(n2m::CombineFilmFwd(s, &none, &none, &none, &none, &none, &none, &none, e),
                  "combine_film", what);
    ExpectRefused(
        n2m::CombineFilmBwd(s, &none, &none, &none, &none, &none, &none, &none, &none, &none, e),
        "combine_film", what);
    ExpectRefused(n2m::CombineFilmBwdParams(s, &none, &none, &none, &none, &none, &none, e),
                  "combine_film", what);
  };
  refused(Shape(-1, 2, 4, 1, 0, DType::kFloat32), "a negative batch");
  refused(Shape(1, -2, 4, 1, 0, DType::kFloat32), "a negative time");
  refused(Shape(1, 2, 4, -1, 0, DType::kFloat32), "a negative embedding");
  refused(Shape(1, 2, 4, 1, 3, DType::kFloat32), "3 groups of 4 channels");
  refused(Shape(1, 2, 4, 1, -1, DType::kFloat32), "negative groups");
  refused(Shape(kHuge, kHuge, 4, 1, 0, DType::kFloat32), "a size past 2^63");
  refused(Shape(1, 1, kHuge, kHuge, 0, DType::kFloat32), "a kernel past 2^63");
}

}  // namespace

int main() {
  const auto pool = n2m::MakeThreadPool(4);
  TestValues(*pool);
  TestEmpty();
  TestThreadsChangeNothing();
  TestNontemporal(*pool);
  TestNotFinite();
  TestRefused();
  return Report("combine_film");
}
