// The mel spectrogram's way back to sound: python/noise2music/{mel,excitation}.py in C++. Formulas
// and sources stand there.
#pragma once

#include <cstdint>

#include "noise2music/executor.h"
#include "noise2music/status.h"

namespace n2m {

// y_i = 2^-n sum_j C(n, j) x_{i + j - n/2}, edges repeated: mel (frames, channels) in place; n
// even.
void LowPassInTime(int64_t frames, int64_t channels, int64_t order, float* mel);

// Puts the spectral envelope back: r (160 frames) and its log-mel (frames, 80) in [-1, 1] -> 16 kHz
// audio in place, by a few rounds of fast Griffin-Lim from r's phases.
void ShapeExcitation(const float* mel, int64_t frames, float* samples, Executor& executor);

// S: log-mel (frames, 80) -> |STFT| (frames, 513).
void Magnitudes(const float* mel, int64_t frames, float* s, Executor& executor);

// y = g x with g = min(1, ceiling / max |x|), the ceiling at -1 dBFS. False where a sample is NaN
// or infinite.
bool LimitPeak(int64_t n, bool normalize, float* samples);

}  // namespace n2m
