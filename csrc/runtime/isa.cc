#include "runtime/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace n2m {
namespace {

// Tiles need the processor's AMX-BF16 and Linux's leave to keep their large state, which is asked
// for once for the process and its threads.
[[maybe_unused]] bool HasAmx() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // leaf 7, edx
  constexpr int kRequestPermission = 0x1023, kTileData = 18;    // arch_prctl
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool WantsEmulatedAmx() {
  const char* wanted = std::getenv("NOISE2MUSIC_AMX");
  return wanted != nullptr && std::strcmp(wanted, "emulate") == 0;
}

Isa BestIsa() {
#if defined(N2M_BASELINE_ONLY)
  return Isa::kBaseline;
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return WantsEmulatedAmx() || HasAmx() ? Isa::kAmx : Isa::kAvx512;
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
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (std::strcmp(wanted, IsaName(isa)) == 0 && isa <= best) return isa;
  }
  return best;
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
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

bool RoundsToBFloat16() {
#if defined(__x86_64__) && !defined(N2M_BASELINE_ONLY)
  static const bool rounds = (ActiveIsa() == Isa::kAvx512 || ActiveIsa() == Isa::kAmx) &&
                             __builtin_cpu_supports("avx512bf16");
  return rounds;
#else
  return false;
#endif
}

bool AmxIsEmulated() {
  static const bool emulated = WantsEmulatedAmx();
  return emulated;
}

}  // namespace n2m
