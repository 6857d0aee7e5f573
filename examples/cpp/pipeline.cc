// The whole cascade: pipeline MODEL_FOLDER "prompt" out.wav [seconds]
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "noise2music/pipeline.h"

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "pipeline MODEL_FOLDER \"prompt\" out.wav [seconds]\n");
    return 2;
  }
  std::unique_ptr<n2m::Pipeline> pipeline;
  n2m::Status status = n2m::Pipeline::Load(argv[1], {}, &pipeline);

  n2m::GenerateOptions options;
  if (argc > 4) options.seconds = std::atof(argv[4]);
  options.progress = [](const std::string& stage, int64_t done, int64_t total) {
    if (done == total)
      std::printf("%s: %lld steps\n", stage.c_str(), static_cast<long long>(total));
    return true;  // false would cancel
  };
  n2m::Clip clip;
  if (status.ok()) status = pipeline->Generate(argv[2], options, &clip);
  if (status.ok()) status = n2m::WriteWav(argv[3], clip, {});
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s: %zu samples at %lld Hz\n", argv[3], clip.samples.size(),
              static_cast<long long>(clip.sample_rate));
  return 0;
}
