#include "pipeline/stage.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "noise2music/ancestral_step.h"
#include "noise2music/fft_upsample.h"
#include "pipeline/check.h"
#include "pipeline/excitation.h"
#include "pipeline/missing_band.h"
#include "pipeline/noise.h"

namespace n2m {
namespace {

constexpr double kSilence = 1e-5;  // root mean square below which a clip counts as silent

bool AllFinite(const float* x, int64_t n, Executor& executor) {
  std::atomic<bool> finite{true};
  ParallelFor(executor, n, 1 << 15, [&](int64_t begin, int64_t end) {
    float product = 0.0f;  // 0 x is NaN where x is not finite
    for (int64_t i = begin; i < end; ++i) product += 0.0f * x[i];
    if (!(product == 0.0f)) finite = false;
  });
  return finite;
}

std::string StepName(const std::string& stage, size_t step, size_t steps) {
  return "n2m.pipeline: " + stage + " at step " + std::to_string(step) + " of " +
         std::to_string(steps);
}

}  // namespace

Status StageModel::Open(const std::string& path, std::unique_ptr<StageModel>* out) {
  auto stage = std::make_unique<StageModel>();
  N2M_RETURN_IF_ERROR(stage->weights_.Open(path));
  std::string text;
  N2M_RETURN_IF_ERROR(stage->weights_.Config(&text));
  N2M_RETURN_IF_ERROR(ParseStageConfig(text, path, &stage->config_));
  *out = std::move(stage);
  return Status::Ok();
}

Status StageModel::Load() {
  if (loaded_) return Status::Ok();
  unet_.Load(config_.unet, &weights_);
  N2M_RETURN_IF_ERROR(weights_.Finish());
  loaded_ = true;
  return Status::Ok();
}

std::vector<Step> StageModel::MakeSteps(const GenerateOptions& options) const {
  StageOptions own = options.every_stage;
  if (const auto found = options.stages.find(config_.name); found != options.stages.end()) {
    if (found->second.steps) own.steps = found->second.steps;
    if (found->second.guidance) own.guidance = found->second.guidance;
  }
  SamplerSettings settings;
  settings.schedule = config_.schedule;
  settings.sampler = config_.sampler;
  if (!options.sampler.empty()) ParseSampler(options.sampler, &settings.sampler);
  settings.gamma = options.gamma.value_or(config_.gamma);
  settings.guidance = own.guidance.value_or(config_.guidance.value_or(1.0));
  settings.clip_percentile = config_.clip_percentile;
  // What |x_0| may reach before dynamic clipping has a say: an excitation is in deviations.
  settings.clip_floor =
      config_.excitation || !config_.missing_band.empty() ? 16.0 : config_.data_scale;
  Segments segments = config_.denoising;
  if (!options.denoising.empty()) Table8(config_.name, options.denoising, &segments);
  return Steps(DenoisingTimes(segments, own.steps.value_or(config_.steps.value_or(0))), settings);
}

Status StageModel::Condition(const std::vector<float>& condition, int64_t padded,
                             Executor& executor, std::vector<float>* out) const {
  if (config_.condition == Condition::kAligned) {
    *out = condition;
    out->resize(static_cast<size_t>(padded / config_.unet.compression() * kMelChannels), -1.0f);
    return Status::Ok();
  }
  N2M_RETURN_IF_ERROR(UpSample(condition, executor, out));
  out->resize(static_cast<size_t>(padded), 0.0f);
  const float scale = static_cast<float>(config_.data_scale);
  for (float& value : *out) value *= scale;
  return Status::Ok();
}

Status StageModel::UpSample(const std::vector<float>& condition, Executor& executor,
                            std::vector<float>* out) const {
  const int64_t divisor = std::gcd(config_.rate, config_.condition_rate);
  FftUpsampleShape shape;
  shape.B = 1;
  shape.T = static_cast<int64_t>(condition.size());
  shape.C = 1;
  shape.up = config_.rate / divisor;
  shape.down = config_.condition_rate / divisor;
  if (shape.T * shape.up % shape.down != 0) {
    return Status::InvalidArgument("n2m.pipeline: " + config_.name + " must read a multiple of " +
                                   std::to_string(shape.down) + " samples, got " +
                                   std::to_string(shape.T));
  }
  out->resize(static_cast<size_t>(shape.T * shape.up / shape.down));
  std::vector<float> scratch(
      static_cast<size_t>(FftUpsampleScratch(shape, executor.num_threads())));
  return FftUpsampleFwd(shape, condition.data(), out->data(), scratch.data(), executor);
}

Status StageModel::Sample(const StageRequest& request, DType dtype, Executor& executor,
                          const Progress& progress, std::vector<float>* out) const {
  const int64_t padded = config_.LegalLength(request.length), channels = config_.unet.in_channels;
  const int64_t n = padded * channels;
  std::vector<float> condition, level;
  if (request.condition != nullptr) {
    std::vector<float> shown;
    if (!config_.missing_band.empty()) {
      LevelCondition(config_, *request.condition, executor, &shown, &level);
    }
    N2M_RETURN_IF_ERROR(
        Condition(shown.empty() ? *request.condition : shown, padded, executor, &condition));
  }
  const bool stacked = config_.condition == Condition::kStacked,
             aligned = config_.condition == Condition::kAligned;
  if ((stacked || aligned) != (request.condition != nullptr)) {
    return Status::InvalidArgument("n2m.pipeline: " + config_.name +
                                   " must be given its condition, and no other stage one");
  }
  std::vector<TextInput> texts = request.texts;
  if (texts.empty()) texts.emplace_back();

  Workspace workspace;
  const Context context{executor, workspace, dtype};
  AncestralStepShape step_shape;
  step_shape.B = 1;
  step_shape.T = padded;
  step_shape.C = channels;
  const size_t branches = texts.size();
  const Workspace::Buffer x_buffer = workspace.TakeFloats(n), next_buffer = workspace.TakeFloats(n);
  const Workspace::Buffer x_0_buffer = workspace.TakeFloats(n), z_buffer = workspace.TakeFloats(n);
  const bool two_steps = std::any_of(request.steps.begin(), request.steps.end(),
                                     [](const Step& s) { return s.c_p != 0.0f; });
  const Workspace::Buffer before_buffer = workspace.TakeFloats(two_steps ? n : 0);
  const Workspace::Buffer eps_buffer = workspace.TakeFloats(n * static_cast<int64_t>(branches));
  const Workspace::Buffer scratch = workspace.TakeFloats(AncestralStepScratch(step_shape));
  UNetRun run(unet_, padded, stacked ? condition.data() : nullptr,
              aligned ? condition.data() : nullptr, texts, context);
  N2M_RETURN_IF_ERROR(run.Plan());
  N2M_RETURN_IF_ERROR(workspace.Reserve());
  N2M_RETURN_IF_ERROR(run.Prepare());

  const Key key =
      FoldIn(FoldIn(MakeKey(request.seed), request.clip), static_cast<uint32_t>(config_.Index()));
  float *x = x_buffer.floats(), *next = next_buffer.floats(), *x_0 = x_0_buffer.floats(),
        *before = before_buffer.floats();
  float* const eps = eps_buffer.floats();
  Normal(FoldIn(key, 0), n, x, executor);
  const int64_t total = static_cast<int64_t>(request.steps.size());
  for (int64_t i = 0; i < total; ++i) {
    const Step& step = request.steps[static_cast<size_t>(i)];
    if (progress && !progress(config_.name, i, total)) {
      return Status::Cancelled(
          StepName(config_.name, static_cast<size_t>(i), request.steps.size()) + " was cancelled");
    }
    N2M_RETURN_IF_ERROR(run.Step(x, step.t, eps));
    const ToNoise to_noise = OutputToNoise(config_.prediction, config_.schedule, step.t);
    for (size_t b = 0; b < branches; ++b) {
      float* branch = eps + static_cast<int64_t>(b) * n;
      ParallelFor(executor, n, 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k)
          branch[k] = to_noise.of_x * x[k] + to_noise.of_output * branch[k];
      });
    }
    const bool noisy = step.row[5] != 0.0f;
    if (noisy) Normal(FoldIn(key, static_cast<uint32_t>(i) + 1), n, z_buffer.floats(), executor);
    if (two_steps) std::swap(x_0, before);
    N2M_RETURN_IF_ERROR(AncestralStepFwd(step_shape, x, eps, branches > 1 ? eps + n : nullptr,
                                         noisy ? z_buffer.floats() : nullptr, step.row, next, x_0,
                                         scratch.floats(), executor));
    if (step.c_p != 0.0f) {
      ParallelFor(executor, n, 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) next[k] += step.c_p * before[k];
      });
    }
    std::swap(x, next);
    if (!AllFinite(x, n, executor)) {
      return Status::BadOutput(
          StepName(config_.name, static_cast<size_t>(i) + 1, request.steps.size()) +
          " made NaN or infinity; try more steps or less guidance");
    }
  }
  if (progress && !progress(config_.name, total, total)) {
    return Status::Cancelled(StepName(config_.name, request.steps.size(), request.steps.size()) +
                             " was cancelled");
  }
  out->assign(x, x + request.length * channels);
  return Finish(request, level, executor, out);
}

// From the scale of diffusion to that of the target.
Status StageModel::Finish(const StageRequest& request, const std::vector<float>& level,
                          Executor& executor, std::vector<float>* x) const {
  const float scale = static_cast<float>(config_.data_scale);
  for (float& value : *x) value /= scale;
  if (config_.mel) {
    if (config_.smoothing > 0)
      LowPassInTime(request.length, kMelChannels, config_.smoothing, x->data());
    for (float& value : *x) value = std::clamp(value, -1.0f, 1.0f);
    return Status::Ok();
  }
  const int64_t n = static_cast<int64_t>(x->size());
  if (config_.excitation) {
    ShapeExcitation(request.condition->data(), request.length / kMelHop, x->data(), executor);
  }
  if (!config_.missing_band.empty()) {
    std::vector<float> up;
    N2M_RETURN_IF_ERROR(UpSample(*request.condition, executor, &up));
    AddMissingBand(config_, up, level, executor, x);
  }
  // A loud condition gives samples beyond 1, where what follows would clip them.
  if ((config_.excitation || !config_.missing_band.empty()) && !LimitPeak(n, false, x->data())) {
    return Status::BadOutput("n2m.pipeline: " + config_.name + " made NaN or infinity at its end");
  }
  double power = 0.0;
  for (const float value : *x) power += static_cast<double>(value) * static_cast<double>(value);
  if (std::sqrt(power / static_cast<double>(n)) < kSilence) {
    return Status::BadOutput("n2m.pipeline: " + config_.name + " made silence");
  }
  return Status::Ok();
}

}  // namespace n2m
