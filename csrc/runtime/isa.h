// Which instruction set the CPU kernels use, decided once per process.
#pragma once

namespace n2m {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

// On x86-64 the best set this processor has, or the one named by NOISE2MUSIC_ISA (baseline, avx2,
// avx512) if that is not above it. 64-bit Arm always has NEON. Others have the baseline only.
Isa ActiveIsa();

// "baseline", "avx2", "avx512" or "neon".
const char* IsaName(Isa isa);

}  // namespace n2m
