// SIMD written once over GCC vector extensions and instantiated per instruction set.
//
// Write a struct template over the number of float lanes with an N2M_INLINE static Run(const
// Args&), then N2M_MULTI_ISA(Name, Args) defines Name_Run(const Args&), which picks the instance at
// run time:
//
//   struct ScaleArgs { const float* x; float* y; int64_t n; };
//   template <int L> struct Scale { static N2M_INLINE void Run(const ScaleArgs& a) { ... } };
//   N2M_MULTI_ISA(Scale, ScaleArgs)
//   ... Scale_Run(args);
//
// Everything below is always_inline, so no out-of-line copy compiled for one instruction set can be
// picked by the linker for another. For the same reason: no lambdas and no std:: calls inside Run
// (their bodies do not take over the target attribute), and no per-file -m flags.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "runtime/isa.h"

#define N2M_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && !defined(N2M_BASELINE_ONLY)
#define N2M_MULTI_ISA(Name, Args)                                                    \
  static void Name##_baseline(const Args& args) { Name<4>::Run(args); }              \
  __attribute__((target("avx2,fma"))) static void Name##_avx2(const Args& args) {    \
    Name<8>::Run(args);                                                              \
  }                                                                                  \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) static void \
  Name##_avx512(const Args& args) {                                                  \
    Name<16>::Run(args);                                                             \
  }                                                                                  \
  static void Name##_Run(const Args& args) {                                         \
    switch (::n2m::ActiveIsa()) {                                                    \
      case ::n2m::Isa::kAmx:                                                         \
      case ::n2m::Isa::kAvx512:                                                      \
        return Name##_avx512(args);                                                  \
      case ::n2m::Isa::kAvx2:                                                        \
        return Name##_avx2(args);                                                    \
      default:                                                                       \
        return Name##_baseline(args);                                                \
    }                                                                                \
  }
#else  // vectors of four floats; on 64-bit Arm they are NEON's, a part of the architecture
#define N2M_MULTI_ISA(Name, Args) \
  static void Name##_Run(const Args& args) { Name<4>::Run(args); }
#endif

namespace n2m::simd {

// Storage of one bfloat16: the upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

// The same bits, for processors where RoundsToBFloat16(). A number below 1.2e-38 becomes zero.
struct NativeBFloat16 {
  uint16_t bits;
};

template <int L>
struct Types {
  typedef float Float __attribute__((vector_size(4 * L)));
  typedef int32_t Int __attribute__((vector_size(4 * L)));
  typedef uint32_t UInt __attribute__((vector_size(4 * L)));
  typedef uint16_t Half __attribute__((vector_size(2 * L)));
};
template <int L>
using Float = typename Types<L>::Float;
template <int L>
using Int = typename Types<L>::Int;
template <int L>
using UInt = typename Types<L>::UInt;

template <class To, class From>
N2M_INLINE To BitCast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "BitCast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <int L>
N2M_INLINE Float<L> Set(float value) {
  return value - Float<L>{};  // a vector minus zero is a broadcast in both compilers
}

template <int L>
N2M_INLINE Float<L> Load(const float* p) {
  Float<L> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <int L>
N2M_INLINE Float<L> Load(const BFloat16* p) {
  typename Types<L>::Half half;
  std::memcpy(&half, p, sizeof(half));
  return BitCast<Float<L>>(__builtin_convertvector(half, UInt<L>) << 16);
}

template <int L>
N2M_INLINE Float<L> Load(const NativeBFloat16* p) {
  return Load<L>(reinterpret_cast<const BFloat16*>(p));
}

template <int L>
N2M_INLINE void Store(float* p, Float<L> v) {
  std::memcpy(p, &v, sizeof(v));
}

// The nearest bfloat16, in the upper halves, even where two are as near, as XLA rounds; NaN stays
// NaN. The lower halves are left over.
template <int L>
N2M_INLINE UInt<L> NearestBFloat16(Float<L> v) {
  const UInt<L> bits = BitCast<UInt<L>>(v);
  const UInt<L> nan = BitCast<UInt<L>>(Int<L>(v != v));
  const UInt<L> rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
  return (rounded & ~nan) | ((bits | 0x400000u) & nan);
}

template <int L>
N2M_INLINE void Store(BFloat16* p, Float<L> v) {
  const auto half = __builtin_convertvector(NearestBFloat16<L>(v) >> 16, typename Types<L>::Half);
  std::memcpy(p, &half, sizeof(half));
}

// Sixteen rounded by AVX512-BF16: instructions by their names, as in nontemporal.h.
template <int L>
N2M_INLINE typename Types<L>::Half RoundNatively([[maybe_unused]] Float<L> v) {
  static_assert(L == 16, "AVX512-BF16 rounds sixteen");
  typename Types<L>::Half half{};
#if defined(__x86_64__)
  asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v));
#endif
  return half;
}

template <int L>
N2M_INLINE void Store(NativeBFloat16* p, Float<L> v) {
  const typename Types<L>::Half half = RoundNatively<L>(v);
  std::memcpy(p, &half, sizeof(half));
}

// The same of even and odd: even[i] in the lower half of lane i, odd[i] in the upper.
template <int L, int... I>
N2M_INLINE UInt<L> RoundPairsNatively([[maybe_unused]] Float<L> even, [[maybe_unused]] Float<L> odd,
                                      std::integer_sequence<int, I...>) {
  static_assert(L == 16, "AVX512-BF16 rounds sixteen");
  typedef uint16_t Halves __attribute__((vector_size(4 * L)));
  Halves all{};  // of even, then of odd
#if defined(__x86_64__)
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(all) : "v"(even), "v"(odd));
#endif
#if defined(__clang__) || __GNUC__ >= 12
  return BitCast<UInt<L>>(__builtin_shufflevector(all, all, (I / 2 + (I % 2) * L)...));
#else
  return BitCast<UInt<L>>(__builtin_shuffle(all, Halves{(I / 2 + (I % 2) * L)...}));
#endif
}

N2M_INLINE float LoadOne(const float* p) { return *p; }
N2M_INLINE float LoadOne(const BFloat16* p) {
  return BitCast<float>(static_cast<uint32_t>(p->bits) << 16);
}
N2M_INLINE void StoreOne(float* p, float v) { *p = v; }
N2M_INLINE void StoreOne(BFloat16* p, float v) {
  const uint32_t bits = BitCast<uint32_t>(v);
  p->bits = v != v ? static_cast<uint16_t>((bits >> 16) | 0x40u)
                   : static_cast<uint16_t>((bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16);
}
N2M_INLINE float LoadOne(const NativeBFloat16* p) {
  return LoadOne(reinterpret_cast<const BFloat16*>(p));
}
N2M_INLINE void StoreOne(NativeBFloat16* p, float v) {
  StoreOne(reinterpret_cast<BFloat16*>(p), v);
}
// What reading back a stored value gives.
template <int L>
N2M_INLINE Float<L> Rounded(const float*, Float<L> v) {
  return v;
}
template <int L>
N2M_INLINE Float<L> Rounded(const BFloat16*, Float<L> v) {
  return BitCast<Float<L>>(NearestBFloat16<L>(v) & 0xffff0000u);
}
N2M_INLINE float Rounded(const float*, float v) { return v; }
N2M_INLINE float Rounded(const BFloat16*, float v) {
  BFloat16 b;
  StoreOne(&b, v);
  return LoadOne(&b);
}

// The first n < L lanes; the rest read as zero.
template <int L, class T>
N2M_INLINE Float<L> LoadPart(const T* p, int n) {
  float lanes[L] = {};
  for (int i = 0; i < n; ++i) lanes[i] = LoadOne(p + i);
  return Load<L>(lanes);
}
template <int L, class T>
N2M_INLINE void StorePart(T* p, Float<L> v, int n) {
  for (int i = 0; i < n; ++i) StoreOne(p + i, v[i]);
}

// Every second lane of the result from b: lanes first, first + 1, ... of a and of b in turn.
template <int L, int first, int... I>
N2M_INLINE Float<L> Interleave(Float<L> a, Float<L> b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (first + I / 2 + (I % 2) * L)...);
#else
  return __builtin_shuffle(a, b, Int<L>{(first + I / 2 + (I % 2) * L)...});
#endif
}

// A block of L by L in place. Interleaving halves log2(L) times turns rows into columns.
template <int L>
N2M_INLINE void Transpose(Float<L>* block) {
  using Lanes = std::make_integer_sequence<int, L>;
#pragma GCC unroll 4
  for (int done = 1; done < L; done *= 2) {
    Float<L> next[L];
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = Interleave<L, 0>(block[i], block[i + L / 2], Lanes());
      next[2 * i + 1] = Interleave<L, L / 2>(block[i], block[i + L / 2], Lanes());
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = next[i];
  }
}

// Pairwise, so that the order of additions is fixed for a given L.
template <int L>
N2M_INLINE float Sum(Float<L> v) {
  float lanes[L];
  std::memcpy(lanes, &v, sizeof(v));
  for (int half = L / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <int L>
N2M_INLINE Float<L> Min(Float<L> a, Float<L> b) {
  return a < b ? a : b;
}
template <int L>
N2M_INLINE Float<L> Max(Float<L> a, Float<L> b) {
  return a > b ? a : b;
}

// e^x = 2^k e^r with k = round(x / ln 2), |r| <= ln(2) / 2, and the Taylor polynomial of degree 7
// for e^r: about 1 ulp over [-87, 88], clamped outside.
template <int L>
N2M_INLINE Float<L> Exp(Float<L> x) {
  x = Min<L>(Max<L>(x, Set<L>(-87.0f)), Set<L>(88.0f));
  const Float<L> magic = Set<L>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Float<L> shifted = x * 1.44269504088896341f + magic;
  const Float<L> k = shifted - magic;
  // ln 2 in two parts, the first with few bits, so that k * part is exact.
  const Float<L> r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  Float<L> p = Set<L>(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const UInt<L> exponent = (BitCast<UInt<L>>(shifted) - 0x4b400000u + 127u) << 23;
  return p * BitCast<Float<L>>(exponent);
}

// 1 / (1 + e^-x)
template <int L>
N2M_INLINE Float<L> Sigmoid(Float<L> x) {
  return 1.0f / (1.0f + Exp<L>(-x));
}

}  // namespace n2m::simd
