// One stage of the cascade, ready to sample: python/noise2music/stage.py in C++.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "noise2music/pipeline.h"
#include "pipeline/config.h"
#include "pipeline/schedule.h"
#include "pipeline/unet.h"
#include "pipeline/weights.h"

namespace n2m {

// What a stage is asked for. Texts: none for a network without; one; or with guidance two, the
// second being what the first is guided away from.
struct StageRequest {
  int64_t length = 0;  // frames or samples
  uint32_t seed = 0, clip = 0;
  std::vector<Step> steps;
  std::vector<TextInput> texts;
  const std::vector<float>* condition =
      nullptr;  // samples at condition_rate, or mel frames (T, 80)
};

class StageModel {
 public:
  // Reads the config; the weights are read by Load, once.
  static Status Open(const std::string& path, std::unique_ptr<StageModel>* out);
  Status Load();

  const StageConfig& config() const { return config_; }
  int64_t parameters() const { return weights_.parameters(); }

  // The steps with what the user changed.
  std::vector<Step> MakeSteps(const GenerateOptions& options) const;

  // x_0 (length, channels) in the target's scale.
  Status Sample(const StageRequest& request, DType dtype, Executor& executor,
                const Progress& progress, std::vector<float>* out) const;

  // The condition as the network reads it, at `padded` frames: up-sampled audio, or mel frames.
  Status Condition(const std::vector<float>& condition, int64_t padded, Executor& executor,
                   std::vector<float>* out) const;
  // Band-limited, from condition_rate to rate.
  Status UpSample(const std::vector<float>& condition, Executor& executor,
                  std::vector<float>* out) const;

 private:
  Status Finish(const StageRequest& request, const std::vector<float>& level, Executor& executor,
                std::vector<float>* x) const;

  StageConfig config_;
  Weights weights_;
  UNet unet_;
  bool loaded_ = false;
};

}  // namespace n2m
