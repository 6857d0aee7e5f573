/// \file
/// The whole cascade in C++: text -> 24 kHz music, from the files of a released model, without
/// Python. Needs the CMake component `pipeline`. The clip of a seed is the one that the Python
/// program makes, to rounding.
///
/// \include pipeline.cc
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

/// How a model is opened.
struct PipelineOptions {
  /// The calling thread included; below 1: as many as the process may use.
  int num_threads = 0;
  /// Of the networks' activations; everything else is float32.
  DType dtype = DType::kFloat32;
};

/// How one stage is sampled; what is not set is the model's own.
struct StageOptions {
  std::optional<int64_t> steps;    ///< 1 to 10000.
  std::optional<double> guidance;  ///< 0 to 100; 1 is none.
};

/// Called before every step and once when a stage is done: the stage, steps done, steps in all.
/// False cancels: Generate then returns a Status of code kCancelled. Called on the calling thread.
using Progress = std::function<bool(const std::string& stage, int64_t done, int64_t total)>;

/// How one clip is made.
struct GenerateOptions {
  double seconds = 10.0;                       ///< 0.1 to 60.
  uint32_t seed = 0;                           ///< The same seed, the same clip.
  uint32_t index = 0;                          ///< Position of the clip in the noise contract.
  std::string route = "spectrogram";           ///< Or "waveform".
  StageOptions every_stage;                    ///< For all stages.
  std::map<std::string, StageOptions> stages;  ///< By name; wins over every_stage.
  std::string sampler;          ///< "ancestral", "ddim", "dpm++"; empty: the model's.
  std::optional<double> gamma;  ///< How much of the noise is new in a step, 0 to 1.
  std::string denoising;        ///< "front_heavy", "back_heavy", "uniform"; empty: the model's.
  std::optional<std::string> negative;  ///< What the music should keep away from.
  std::string until;                    ///< The last stage to run; empty: all.
  Progress progress;                    ///< May be empty.
};

/// What one stage made: (frames, channels), one channel for audio and 80 for the log-mel
/// spectrogram.
struct StageOutput {
  std::string stage;          ///< Its name.
  int64_t rate = 0;           ///< Frames or samples a second.
  int64_t channels = 1;       ///< 1 or 80.
  std::vector<float> values;  ///< Frame by frame.
};

/// A piece of music, and how it came about.
struct Clip {
  std::vector<float> samples;       ///< Mono, nominally in [-1, 1].
  int64_t sample_rate = 0;          ///< Samples a second.
  std::string prompt;               ///< As used.
  std::vector<StageOutput> stages;  ///< In the order in which they ran.
  std::string metadata;             ///< JSON: what `noise2music replay` needs.
};

/// What a stage is.
struct StageInfo {
  std::string name;        ///< "spectrogram_vocoder".
  int64_t parameters = 0;  ///< Numbers in its file.
  int64_t rate = 0;        ///< Frames or samples a second of what it makes.
  int64_t steps = 0;       ///< Of its own sampling.
};

/// A text-to-music cascade. Stages are read when they are first used; their weights are mapped, not
/// copied, where their file has the type that the kernels read. One thread at a time may use a
/// Pipeline; several are independent.
class N2M_API Pipeline {
 public:
  /// Opens a model. `folder` holds model.json, a safetensors file a stage,
  /// text_encoder.safetensors and tokenizer.json.
  static Status Load(const std::string& folder, const PipelineOptions& options,
                     std::unique_ptr<Pipeline>* out);
  /// Closes the model.
  ~Pipeline();
  /// Not copied.
  Pipeline(const Pipeline&) = delete;
  /// Not copied.
  Pipeline& operator=(const Pipeline&) = delete;

  /// Music for one prompt, UTF-8; "" is unconditional. On an error `clip` is left empty.
  Status Generate(const std::string& prompt, const GenerateOptions& options, Clip* clip);

  /// The model's name.
  const std::string& name() const;
  /// "spectrogram", "waveform": those whose stages the model has.
  std::vector<std::string> routes() const;
  /// Loads every stage and tells what it is.
  Status Info(std::vector<StageInfo>* out);

 private:
  struct Impl;
  explicit Pipeline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// How samples are stored.
enum class WavFormat : int {
  kPcm16 = 0,    ///< Whole numbers of 16 bits.
  kPcm24 = 1,    ///< Whole numbers of 24 bits.
  kFloat32 = 2,  ///< As they are.
};

/// How a file is written.
struct WavOptions {
  WavFormat format = WavFormat::kPcm16;  ///< Of the samples.
  bool normalize = false;                ///< Turn a quiet clip up, too.
};

/// Writes a mono WAV file under a temporary name and renames it, so that there is never half a
/// file. The peak is held at -1 dBFS by turning the whole clip down. `title` and `metadata`, if not
/// empty, go into its LIST chunk.
N2M_API Status WriteWav(const std::string& path, const float* samples, int64_t count,
                        int64_t sample_rate, const WavOptions& options,
                        const std::string& title = "", const std::string& metadata = "");
/// The same of a clip, with its prompt and its metadata.
N2M_API Status WriteWav(const std::string& path, const Clip& clip, const WavOptions& options);

}  // namespace n2m
