// The fixed features that a U-Net reads: the position of t, and the clock.
#pragma once

#include <cstdint>

namespace n2m {

constexpr int64_t kTimeFrequencies = 128, kTimeFeatures = 2 * kTimeFrequencies;
constexpr int64_t kClockFrequencies = 64, kBeatHands = 10;
constexpr int64_t kClockFeatures = 2 * (kClockFrequencies + kBeatHands);

// [cos 1000 t f, sin 1000 t f], f from 1 to 1e-4: kTimeFeatures values.
void TimePositions(float t, float* out);

// [cos 2 pi f tau, sin 2 pi f tau, cos 2 pi h beat tau, sin 2 pi h beat tau] in the middle of every
// frame, tau = (i + 1/2) / rate, for 64 frequencies f from 1/32 to 4 Hz and ten multiples h of
// `beat` (zero where beat is 0): (length, kClockFeatures).
void Clock(int64_t length, float rate, float beat, float* out);

}  // namespace n2m
