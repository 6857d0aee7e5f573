// The configs inside a model's files, as data: python/noise2music/config.py and text/t5.py in C++.
// Unknown keys are refused by name, so that a model made by a newer version never runs half
// understood.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

constexpr int64_t kMelChannels = 80;
constexpr int64_t kMelHop = 160;  // samples of 16 kHz audio a frame

// The five stages in the order of the noise contract: a stage's position is part of its key.
extern const std::vector<std::string> kStages;
// The three stages of a route, in order; null for another name than "spectrogram" and "waveform".
const std::vector<std::string>* RouteStages(const std::string& route);

// One 1D U-Net (appendix B.1, Table 9). Lists have one entry a depth.
struct UNetConfig {
  int64_t base_dim = 0, kernel_size = 0;
  std::vector<int64_t> strides, channels, blocks;
  std::vector<bool> self_attention, cross_attention;
  int64_t heads = 8;
  int64_t in_channels = 1, stacked_channels = 0, aligned_channels = 0;
  int64_t text_dim = 1024, norm_groups = 32;
  std::optional<double> clock_rate;
  bool text_film = false, skip_film = false;

  size_t depth() const { return strides.size(); }
  int64_t compression() const;  // prod_l S_l
  bool has_text() const;
  // C_0 = base_dim, C_1, ..., C_D.
  int64_t width(size_t level) const { return level == 0 ? base_dim : channels[level - 1]; }
};

enum class Schedule { kLinear, kCosine };
enum class Prediction { kNoise, kVelocity, kSample };
enum class SamplerKind { kAncestral, kDdim, kDpm };
enum class Condition { kNone, kStacked, kAligned };

struct StageConfig {
  std::string name;
  UNetConfig unet;
  bool mel = false;  // the target: a mel spectrogram, else a waveform
  int64_t rate = 0;  // target frames or samples a second
  Schedule schedule = Schedule::kLinear;
  std::vector<std::pair<double, int64_t>> denoising;  // (total time, steps)
  double gamma = 0.0;
  std::optional<double> guidance;
  Condition condition = Condition::kNone;
  int64_t condition_rate = 0;
  Prediction prediction = Prediction::kNoise;
  SamplerKind sampler = SamplerKind::kAncestral;
  std::optional<int64_t> steps;
  double clip_percentile = 99.5;
  double data_scale = 1.0;
  bool excitation = false;
  int64_t smoothing = 0;
  std::vector<std::pair<double, double>> missing_band;  // (Hz, dB), or empty
  int64_t token_length = 0;                             // 0: no text

  int64_t LegalLength(int64_t length) const;  // padded to a multiple of the compression
  size_t Index() const;                       // position in kStages
};

struct T5Config {
  int64_t vocab_size = 0, d_model = 0, d_kv = 0, num_heads = 0, d_ff = 0, num_layers = 0;
  int64_t buckets = 32, max_distance = 128;
  double epsilon = 1e-6;
  bool gated_gelu = true;  // else relu
};

// Read and check the text of a config. `file` is for messages.
Status ParseStageConfig(const std::string& text, const std::string& file, StageConfig* out);
Status ParseT5Config(const std::string& text, const std::string& file, T5Config* out);

// By name: "ancestral", "ddim", "dpm++".
bool ParseSampler(const std::string& name, SamplerKind* out);

}  // namespace n2m
