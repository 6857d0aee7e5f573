// One operation: a second of 16 kHz audio, a sine of 440 Hz, resampled to 24 kHz.
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "noise2music/fft_upsample.h"

int main() {
  n2m::FftUpsampleShape shape;  // (batch, time, channels), channels last
  shape.B = 1;
  shape.T = 16000;
  shape.C = 1;
  shape.up = 3;
  shape.down = 2;
  const double turn = 2.0 * 3.14159265358979323846 * 440.0;
  std::vector<float> x(16000), y(24000);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(std::sin(turn * static_cast<double>(i) / 16000.0));
  }
  const std::unique_ptr<n2m::Executor> threads = n2m::MakeThreadPool(0);
  std::vector<float> scratch(
      static_cast<std::size_t>(n2m::FftUpsampleScratch(shape, threads->num_threads())));
  const n2m::Status status =
      n2m::FftUpsampleFwd(shape, x.data(), y.data(), scratch.data(), *threads);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  double worst = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double want = std::sin(turn * static_cast<double>(i) / 24000.0);
    worst = std::fmax(worst, std::fabs(static_cast<double>(y[i]) - want));
  }
  std::printf("largest error of the resampled sine: %.1e\n", worst);
  return worst < 1e-5 ? 0 : 1;
}
