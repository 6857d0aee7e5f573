#include "runtime/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace n2m {
namespace {

Isa BestIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (avx2) return Isa::kAvx2;
#elif defined(__aarch64__)
  return Isa::kNeon;  // part of the architecture: vectors of four floats compile to it
#endif
  return Isa::kBaseline;
}

Isa ChooseIsa() {
  const Isa best = BestIsa();
  const char* wanted = std::getenv("NOISE2MUSIC_ISA");
  if (wanted == nullptr || best == Isa::kNeon) return best;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (std::strcmp(wanted, IsaName(isa)) == 0 && isa <= best) return isa;
  }
  return best;
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kNeon:
      return "neon";
    default:
      return "baseline";
  }
}

Isa ActiveIsa() {
  static const Isa isa = ChooseIsa();
  return isa;
}

}  // namespace n2m
