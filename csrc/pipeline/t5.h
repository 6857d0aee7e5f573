// The T5 encoder of a released model: python/noise2music/text/t5.py in C++.
#pragma once

#include <cstdint>
#include <vector>

#include "noise2music/executor.h"
#include "noise2music/status.h"
#include "pipeline/config.h"
#include "pipeline/weights.h"

namespace n2m {

class T5Encoder {
 public:
  // Takes its weights; the caller asks weights->Finish().
  void Load(const T5Config& config, Weights* weights);

  // Token ids -> states (tokens, d_model), float32. Padding is left out: it influences nothing.
  Status Encode(const std::vector<int32_t>& tokens, Executor& executor,
                std::vector<float>* states) const;

  const T5Config& config() const { return config_; }

 private:
  struct Block {
    const float *attention_norm, *feed_forward_norm;
    Matrix q, k, v, o, wi, wi_linear, wo;
  };
  Status Run(const std::vector<int32_t>& tokens, const struct Context& c, float* x) const;

  T5Config config_;
  const float* embedding_ = nullptr;
  const float* position_bias_ = nullptr;
  const float* final_norm_ = nullptr;
  std::vector<Block> blocks_;
};

// Bucket of a relative distance key - query (Raffel et al. 2020, section 2.1).
int64_t RelativePositionBucket(int64_t relative, int64_t buckets, int64_t max_distance);

}  // namespace n2m
