// The short-time Fourier transform of the log-mel spectrogram, and its least-squares inverse:
// window 1024, hop 160, frame i centred on sample 160 i + 80. Spectra are planes (F, 513) of real
// and imaginary parts, float32.
#pragma once

#include <cstdint>
#include <vector>

#include "noise2music/executor.h"

namespace n2m {

constexpr int64_t kWindow = 1024;
constexpr int64_t kBins = kWindow / 2 + 1;

// The Hann window, periodic: (kWindow).
const std::vector<float>& HannWindow();

// x (160 frames) -> re, im (frames, kBins).
void Stft(const float* x, int64_t frames, float* re, float* im, Executor& executor);

// re, im (frames, kBins) -> x (160 frames). parts (frames, kWindow) is scratch.
void Istft(const float* re, const float* im, int64_t frames, float* parts, float* x,
           Executor& executor);

}  // namespace n2m
