// The whole cascade in C++: text -> 24 kHz music, from the files of a released model, without
// Python.
//
//   std::unique_ptr<n2m::Pipeline> pipeline;
//   n2m::Status status = n2m::Pipeline::Load("models/tiny", {}, &pipeline);
//   n2m::Clip clip;
//   if (status.ok()) status = pipeline->Generate("slow church organ chorale in D minor", {},
//   &clip); if (status.ok()) status = n2m::WriteWav("out.wav", clip, {});
//
// Needs the CMake component `pipeline`. What the stages compute is described in docs/cpp.md; the
// clip of a seed is the one that the Python program makes, to rounding.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "noise2music/executor.h"
#include "noise2music/export.h"
#include "noise2music/status.h"
#include "noise2music/types.h"

namespace n2m {

struct PipelineOptions {
  int num_threads = 0;  // the calling thread included; below 1: as many as the process may use
  DType dtype = DType::kFloat32;  // of the networks' activations; everything else is float32
};

// How one stage is sampled; what is not set is the model's own.
struct StageOptions {
  std::optional<int64_t> steps;    // 1 to 10000
  std::optional<double> guidance;  // 0 to 100; 1 is none
};

// Called before every step and once when a stage is done: the stage, steps done, steps in all.
// False cancels: Generate then returns a Status of code kCancelled. Called on the calling thread.
using Progress = std::function<bool(const std::string& stage, int64_t done, int64_t total)>;

struct GenerateOptions {
  double seconds = 10.0;  // 0.1 to 60
  uint32_t seed = 0;
  uint32_t index = 0;                 // position of the clip in the noise contract
  std::string route = "spectrogram";  // or "waveform"
  StageOptions every_stage;
  std::map<std::string, StageOptions> stages;  // by name; wins over every_stage
  std::string sampler;                         // "ancestral", "ddim", "dpm++"; empty: the model's
  std::optional<double> gamma;                 // 0 to 1
  std::string denoising;  // "front_heavy", "back_heavy", "uniform"; empty: the model's
  std::optional<std::string> negative;  // what the music should keep away from
  std::string until;                    // the last stage to run; empty: all
  Progress progress;
};

// What one stage made: (frames, channels), one channel for audio and 80 for the log-mel
// spectrogram.
struct StageOutput {
  std::string stage;
  int64_t rate = 0;  // frames or samples a second
  int64_t channels = 1;
  std::vector<float> values;
};

struct Clip {
  std::vector<float> samples;  // mono, nominally in [-1, 1]
  int64_t sample_rate = 0;
  std::string prompt;               // as used
  std::vector<StageOutput> stages;  // in the order in which they ran
  std::string metadata;             // JSON: what `noise2music replay` needs
};

struct StageInfo {
  std::string name;
  int64_t parameters = 0;
  int64_t rate = 0;
  int64_t steps = 0;
};

// A text-to-music cascade. Stages are read when they are first used; their weights are mapped, not
// copied, where their file has the type that the kernels read. One thread at a time may use a
// Pipeline; several are independent.
class N2M_API Pipeline {
 public:
  // `folder` holds model.json, a safetensors file a stage, text_encoder.safetensors and
  // tokenizer.json.
  static Status Load(const std::string& folder, const PipelineOptions& options,
                     std::unique_ptr<Pipeline>* out);
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Music for one prompt, UTF-8; "" is unconditional. On an error `clip` is left empty.
  Status Generate(const std::string& prompt, const GenerateOptions& options, Clip* clip);

  const std::string& name() const;
  std::vector<std::string> routes() const;
  // Loads every stage and tells what it is.
  Status Info(std::vector<StageInfo>* out);

 private:
  struct Impl;
  explicit Pipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

enum class WavFormat : int { kPcm16 = 0, kPcm24 = 1, kFloat32 = 2 };

struct WavOptions {
  WavFormat format = WavFormat::kPcm16;
  bool normalize = false;  // turn a quiet clip up, too
};

// Writes a mono WAV file under a temporary name and renames it, so that there is never half a file.
// The peak is held at -1 dBFS by turning the whole clip down. `title` and `metadata`, if not empty,
// go into its LIST chunk.
N2M_API Status WriteWav(const std::string& path, const float* samples, int64_t count,
                        int64_t sample_rate, const WavOptions& options,
                        const std::string& title = "", const std::string& metadata = "");
N2M_API Status WriteWav(const std::string& path, const Clip& clip, const WavOptions& options);

}  // namespace n2m
