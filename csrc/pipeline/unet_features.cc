#include "pipeline/unet_features.h"

#include <cmath>

namespace n2m {
namespace {

#include "pipeline/unet_frequencies.inc"

// Angles are rounded to float32 where Python rounds them: at 1000 radians a rounding is 6e-5.
float Cosine(float angle) { return static_cast<float>(std::cos(static_cast<double>(angle))); }
float Sine(float angle) { return static_cast<float>(std::sin(static_cast<double>(angle))); }

constexpr float kHands[kBeatHands] = {0.125f, 1.0f / 6, 0.25f, 1.0f / 3, 0.5f,
                                      1.0f,   1.5f,     2.0f,  3.0f,     4.0f};

}  // namespace

void TimePositions(float t, float* out) {
  const float scaled = 1000.0f * t;
  for (int64_t i = 0; i < kTimeFrequencies; ++i) {
    const float angle = scaled * kTimeHertz[i];
    out[i] = Cosine(angle);
    out[kTimeFrequencies + i] = Sine(angle);
  }
}

void Clock(int64_t length, float rate, float beat, float* out) {
  for (int64_t i = 0; i < length; ++i) {
    float* row = out + i * kClockFeatures;
    const float turns = 6.283185307179586f * ((static_cast<float>(i) + 0.5f) / rate);
    for (int64_t f = 0; f < kClockFrequencies; ++f) {
      row[f] = Cosine(turns * kClockHertz[f]);
      row[kClockFrequencies + f] = Sine(turns * kClockHertz[f]);
    }
    row += 2 * kClockFrequencies;
    for (int64_t h = 0; h < kBeatHands; ++h) {
      const float angle = turns * (beat * kHands[h]);
      row[h] = beat > 0.0f ? Cosine(angle) : 0.0f;
      row[kBeatHands + h] = beat > 0.0f ? Sine(angle) : 0.0f;
    }
  }
}

}  // namespace n2m
