// Which instruction set the CPU kernels use, decided once per process.
#pragma once

namespace n2m {

// kAmx is kAvx512 with the matrix tiles of Sapphire Rapids and later (AMX-BF16).
enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3, kNeon = 4 };

// On x86-64 the best set this processor has, or the one named by NOISE2MUSIC_ISA (baseline, avx2,
// avx512, amx) if that is not above it. 64-bit Arm always has NEON. Others have the baseline only.
Isa ActiveIsa();

// Whether the tiles of kAmx are computed without the instructions, slowly, for tests on a processor
// that has AVX-512 but no AMX: NOISE2MUSIC_AMX=emulate.
bool AmxIsEmulated();

// Whether kAvx512 or kAmx is active and the processor rounds to bfloat16 itself (AVX512-BF16).
bool RoundsToBFloat16();

// "baseline", "avx2", "avx512", "amx" or "neon".
const char* IsaName(Isa isa);

}  // namespace n2m
