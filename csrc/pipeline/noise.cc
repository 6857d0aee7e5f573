#include "pipeline/noise.h"

#include "kernels/common/simd.h"

namespace n2m {
namespace {

// Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counter (c0, c1), in place. U: uint32_t,
// or a vector of them.
template <class U>
N2M_INLINE void Threefry(uint32_t k0, uint32_t k1, U* c0, U* c1) {
  const uint32_t k2 = k0 ^ k1 ^ 0x1BD11BDAu;
  U a = *c0 + k0, b = *c1 + k1;
#define N2M_ROUND(r)                  \
  a += b;                             \
  b = (b << (r)) | (b >> (32 - (r))); \
  b ^= a;
#define N2M_FOUR(r0, r1, r2, r3, x, y, i)                           \
  N2M_ROUND(r0) N2M_ROUND(r1) N2M_ROUND(r2) N2M_ROUND(r3) a += (x); \
  b += (y) + i;
  N2M_FOUR(13, 15, 26, 6, k1, k2, 1u)
  N2M_FOUR(17, 29, 16, 24, k2, k0, 2u)
  N2M_FOUR(13, 15, 26, 6, k0, k1, 3u)
  N2M_FOUR(17, 29, 16, 24, k1, k2, 4u)
  N2M_FOUR(13, 15, 26, 6, k2, k0, 5u)
#undef N2M_FOUR
#undef N2M_ROUND
  *c0 = a;
  *c1 = b;
}

struct NormalArgs {
  Key key;
  int64_t begin, end;
  float* z;
};

// Polynomials of Giles (2012), "Approximating the erfinv function", as XLA evaluates them.
constexpr float kCentre[] = {2.81022636e-08f,  3.43273939e-07f, -3.5233877e-06f,
                             -4.39150654e-06f, 0.00021858087f,  -0.00125372503f,
                             -0.00417768164f,  0.246640727f,    1.50140941f};
constexpr float kTails[] = {-0.000200214257f, 0.000100950558f, 0.00134934322f,
                            -0.00367342844f,  0.00573950773f,  -0.0076224613f,
                            0.00943887047f,   1.00167406f,     2.83297682f};

template <int L>
struct NormalDraw {
  using F = simd::Float<L>;
  using U = simd::UInt<L>;

  // log v for v in (0, 1]: v = 2^e m with m around 1, and the series of atanh(f / (2 + f)), f = m
  // - 1.
  static N2M_INLINE F Log(F v) {
    const simd::Int<L> bits = simd::BitCast<simd::Int<L>>(v);
    const simd::Int<L> e = (bits - 0x3f3504f3) >> 23;
    const F f = simd::BitCast<F>(bits - (e << 23)) - 1.0f;
    const F s = f / (2.0f + f), square = s * s;
    F p = simd::Set<L>(2.0f / 9.0f);
    p = p * square + 2.0f / 7.0f;
    p = p * square + 2.0f / 5.0f;
    p = p * square + 2.0f / 3.0f;
    p = p * square + 2.0f;
    return __builtin_convertvector(e, F) * 0.693147180559945f + p * s;
  }

  // The largest root of a float32 vector by lanes: there is no vector square root in GCC's
  // extensions.
  static N2M_INLINE F Root(F v) {
    for (int i = 0; i < L; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
  }

  static N2M_INLINE void Run(const NormalArgs& a) {
    U lanes;
    for (int i = 0; i < L; ++i) lanes[i] = static_cast<uint32_t>(i);
    for (int64_t i = a.begin; i < a.end; i += L) {
      const U low = lanes + static_cast<uint32_t>(i);
      U high{};
      high +=
          static_cast<uint32_t>(static_cast<uint64_t>(i) >> 32);  // chunks begin at multiples of L
      U c0 = high, c1 = low;
      Threefry(a.key.high, a.key.low, &c0, &c1);
      const U one = ((c0 ^ c1) >> 9) | 0x3F800000u;
      const F unit = simd::BitCast<F>(one) - 1.0f;
      const F lowest = simd::Set<L>(-0.99999994f);
      const F u = simd::Max<L>(lowest, unit * (1.0f - lowest) + lowest);
      // log(1 - u^2) with u^2 rounded, as XLA does it; the maximum keeps the compiler from joining
      // the product to the difference.
      const F square = simd::Max<L>(u * u, simd::Set<L>(1e-30f));
      const F rest = 1.0f - square, lost = (1.0f - rest) - square;
      const F w = -(Log(rest) + lost / rest);
      const F near = w - 2.5f, far = Root(w) - 3.0f;
      F centre = simd::Set<L>(kCentre[0]), tails = simd::Set<L>(kTails[0]);
      for (int k = 1; k < 9; ++k) {
        centre = centre * near + kCentre[k];
        tails = tails * far + kTails[k];
      }
      const F z = 1.41421356f * ((w < 5.0f ? centre : tails) * u);
      const int64_t left = a.end - i;
      if (left >= L) {
        simd::Store<L>(a.z + i, z);
      } else {
        simd::StorePart<L>(a.z + i, z, static_cast<int>(left));
      }
    }
  }
};
N2M_MULTI_ISA(NormalDraw, NormalArgs)

}  // namespace

Key MakeKey(uint64_t seed) {
  return {static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(seed)};
}

Key FoldIn(Key key, uint32_t data) {
  uint32_t c0 = 0, c1 = data;
  Threefry(key.high, key.low, &c0, &c1);
  return {c0, c1};
}

void Normal(Key key, int64_t n, float* z, Executor& executor) {
  ParallelFor(executor, n, 1 << 14,
              [&](int64_t begin, int64_t end) { NormalDraw_Run({key, begin, end, z}); });
}

}  // namespace n2m
