#include "pipeline/config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "pipeline/check.h"
#include "pipeline/json.h"

namespace n2m {
namespace {

constexpr int64_t kLargest =
    1 << 20;  // of any size in a config: sums of a few stay far from overflow

// The members of one object, each read once by name; what is left over is an error.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is(Json::Kind::kObject))
      Note("must be an object, got " + std::string(KindName(object.kind())));
  }

  void Size(const char* name, int64_t* out, bool required = false, int64_t least = 1) {
    if (const Json* value = Take(name, required)) {
      if (!value->is_integer() || value->integer() < least || value->integer() > kLargest) {
        Bad(name,
            "a whole number from " + std::to_string(least) + " to " + std::to_string(kLargest));
      } else {
        *out = value->integer();
      }
    }
  }
  void Real(const char* name, double* out, double low, double high, bool required = false) {
    if (const Json* value = Take(name, required)) {
      if (!value->is(Json::Kind::kNumber) || !(value->number() >= low && value->number() <= high)) {
        Bad(name, "a number from " + std::to_string(low) + " to " + std::to_string(high));
      } else {
        *out = value->number();
      }
    }
  }
  void Flag(const char* name, bool* out) {
    if (const Json* value = Take(name, false)) {
      if (!value->is(Json::Kind::kBool)) return Bad(name, "true or false");
      *out = value->boolean();
    }
  }
  void Text(const char* name, std::string* out) {
    if (const Json* value = Take(name, true)) {
      if (!value->is(Json::Kind::kString)) return Bad(name, "a string");
      *out = value->string();
    }
  }
  template <class T>
  void Choice(const char* name, const std::map<std::string, T>& choices, T* out,
              bool required = false) {
    if (const Json* value = Take(name, required)) {
      const auto found =
          value->is(Json::Kind::kString) ? choices.find(value->string()) : choices.end();
      if (found != choices.end()) {
        *out = found->second;
        return;
      }
      std::string names;
      for (const auto& choice : choices) names += (names.empty() ? "" : ", ") + choice.first;
      Bad(name, "one of " + names);
    }
  }
  // Null, or what `read` reads.
  void Optional(const char* name, const std::function<void()>& read) {
    const Json* value = object_.Find(name);
    if (value != nullptr && value->is(Json::Kind::kNull)) {
      seen_.insert(name);
    } else if (value != nullptr) {
      read();
    }
  }
  void Sizes(const char* name, std::vector<int64_t>* out) {
    const Json* value = Take(name, true);
    if (value == nullptr) return;
    for (const Json& item : value->items()) {
      if (!item.is_integer() || item.integer() < 1 || item.integer() > kLargest)
        return Bad(name, "a list of sizes");
      out->push_back(item.integer());
    }
  }
  void Flags(const char* name, std::vector<bool>* out) {
    const Json* value = Take(name, true);
    if (value == nullptr) return;
    for (const Json& item : value->items()) {
      if (!item.is(Json::Kind::kBool)) return Bad(name, "a list of true and false");
      out->push_back(item.boolean());
    }
  }
  // A member that only training reads.
  void Skip(const char* name) { seen_.insert(name); }
  const Json* Take(const char* name, bool required) {
    seen_.insert(name);
    const Json* value = object_.Find(name);
    if (value == nullptr && required) Note("lacks " + std::string(name));
    return value;
  }
  void Bad(const char* name, const std::string& rule) {
    const Json* value = object_.Find(name);
    std::string got = value == nullptr ? "nothing" : KindName(value->kind());
    if (value != nullptr && value->is(Json::Kind::kString)) got = '"' + value->string() + '"';
    if (value != nullptr && value->is(Json::Kind::kNumber)) got = std::to_string(value->number());
    Note(std::string(name) + " must be " + rule + ", got " + got);
  }
  void Note(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
  }

  Status Done() {
    for (const Json::Member& member : object_.members()) {
      if (seen_.count(member.first) == 0)
        Note("has no option '" + member.first + "' that this version knows");
    }
    return problem_.empty() ? Status::Ok()
                            : Status::InvalidArgument("n2m.config: " + where_ + " " + problem_);
  }

 private:
  const Json& object_;
  const std::string where_;
  std::string problem_;
  std::set<std::string> seen_;
};

Status ReadUNet(const Json& json, const std::string& where, UNetConfig* c) {
  Fields f(json, where);
  f.Size("base_dim", &c->base_dim, true);
  f.Size("kernel_size", &c->kernel_size, true);
  f.Sizes("strides", &c->strides);
  f.Sizes("channels", &c->channels);
  f.Sizes("blocks", &c->blocks);
  f.Flags("self_attention", &c->self_attention);
  f.Flags("cross_attention", &c->cross_attention);
  f.Size("heads", &c->heads);
  f.Size("in_channels", &c->in_channels);
  f.Size("stacked_channels", &c->stacked_channels, false, 0);
  f.Size("aligned_channels", &c->aligned_channels, false, 0);
  f.Size("text_dim", &c->text_dim);
  f.Size("norm_groups", &c->norm_groups);
  f.Optional("clock_rate", [&] {
    double rate = 0.0;
    f.Real("clock_rate", &rate, 1e-3, 1e6);
    c->clock_rate = rate;
  });
  f.Flag("text_film", &c->text_film);
  f.Flag("skip_film", &c->skip_film);
  N2M_RETURN_IF_ERROR(f.Done());
  const size_t depth = c->depth();
  if (depth < 1 || depth > 16) f.Note("strides must have 1 to 16 entries");
  for (const size_t size : {c->channels.size(), c->blocks.size(), c->self_attention.size(),
                            c->cross_attention.size()}) {
    if (size != depth)
      f.Note("must have one entry a depth in channels, blocks, self_attention and cross_attention");
  }
  int64_t compression = 1;
  for (const int64_t stride : c->strides) {
    if (compression <= kLargest) compression *= stride;
  }
  if (compression > kLargest)
    f.Note("strides must have a product of at most " + std::to_string(kLargest));
  N2M_RETURN_IF_ERROR(f.Done());
  for (size_t level = 0; level <= depth; ++level) {
    const int64_t width = c->width(level);
    const bool attends =
        level > 0 && (c->self_attention[level - 1] || c->cross_attention[level - 1]);
    if (width % c->norm_groups != 0)
      f.Note("every width must be a multiple of norm_groups, got " + std::to_string(width));
    if (attends && width % c->heads != 0)
      f.Note("widths with attention must be multiples of heads, got " + std::to_string(width));
  }
  return f.Done();
}

}  // namespace

const std::vector<std::string> kStages = {"waveform_generator", "waveform_cascader",
                                          "spectrogram_generator", "spectrogram_vocoder",
                                          "super_resolution_cascader"};

const std::vector<std::string>* RouteStages(const std::string& route) {
  static const std::vector<std::string> spectrogram = {kStages[2], kStages[3], kStages[4]};
  static const std::vector<std::string> waveform = {kStages[0], kStages[1], kStages[4]};
  return route == "spectrogram" ? &spectrogram : route == "waveform" ? &waveform : nullptr;
}

int64_t UNetConfig::compression() const {
  int64_t product = 1;
  for (const int64_t stride : strides) product *= stride;
  return product;
}

bool UNetConfig::has_text() const {
  return std::find(cross_attention.begin(), cross_attention.end(), true) != cross_attention.end();
}

int64_t StageConfig::LegalLength(int64_t length) const {
  const int64_t unit = unet.compression();
  return std::max<int64_t>(1, (length + unit - 1) / unit) * unit;
}

size_t StageConfig::Index() const {
  return static_cast<size_t>(std::find(kStages.begin(), kStages.end(), name) - kStages.begin());
}

bool ParseSampler(const std::string& name, SamplerKind* out) {
  if (name == "ancestral") *out = SamplerKind::kAncestral;
  if (name == "ddim") *out = SamplerKind::kDdim;
  if (name == "dpm++") *out = SamplerKind::kDpm;
  return name == "ancestral" || name == "ddim" || name == "dpm++";
}

Status ParseStageConfig(const std::string& text, const std::string& file, StageConfig* c) {
  *c = StageConfig();
  Json json;
  N2M_RETURN_IF_ERROR(Json::Parse(text, file + ": the config", &json));
  Fields f(json, file + ": the config");
  f.Text("name", &c->name);
  if (std::find(kStages.begin(), kStages.end(), c->name) == kStages.end())
    f.Bad("name", "one of the five stages");
  if (const Json* unet = f.Take("unet", true))
    N2M_RETURN_IF_ERROR(ReadUNet(*unet, file + ": unet", &c->unet));
  f.Choice<bool>("target", {{"mel", true}, {"waveform", false}}, &c->mel, true);
  f.Size("rate", &c->rate, true);
  f.Choice<Schedule>("noise_schedule",
                     {{"linear", Schedule::kLinear}, {"cosine", Schedule::kCosine}}, &c->schedule,
                     true);
  const Json* denoising = f.Take("denoising", true);
  double total = 0.0;
  if (denoising != nullptr) {
    for (const Json& item : denoising->items()) {
      const auto& pair = item.items();
      if (pair.size() != 2 || !pair[0].is(Json::Kind::kNumber) || !pair[1].is_integer() ||
          !(pair[0].number() > 0.0) || pair[1].integer() < 1 || pair[1].integer() > kLargest) {
        f.Bad("denoising", "a list of [time > 0, steps >= 1]");
        break;
      }
      c->denoising.emplace_back(pair[0].number(), pair[1].integer());
      total += pair[0].number();
    }
    if (!(std::fabs(total - 1.0) < 1e-9)) f.Bad("denoising", "a list whose times add up to 1");
  }
  f.Real("gamma", &c->gamma, 0.0, 1.0, true);
  f.Optional("guidance", [&] {
    double guidance = 0.0;
    f.Real("guidance", &guidance, 0.0, 100.0);
    c->guidance = guidance;
  });
  f.Choice<Condition>("condition",
                      {{"none", Condition::kNone},
                       {"stacked", Condition::kStacked},
                       {"aligned", Condition::kAligned}},
                      &c->condition);
  f.Optional("condition_rate", [&] { f.Size("condition_rate", &c->condition_rate); });
  f.Choice<Prediction>("prediction",
                       {{"noise", Prediction::kNoise},
                        {"velocity", Prediction::kVelocity},
                        {"sample", Prediction::kSample}},
                       &c->prediction);
  f.Choice<SamplerKind>("sampler",
                        {{"ancestral", SamplerKind::kAncestral},
                         {"ddim", SamplerKind::kDdim},
                         {"dpm++", SamplerKind::kDpm}},
                        &c->sampler);
  f.Optional("steps", [&] {
    int64_t steps = 0;
    f.Size("steps", &steps);
    c->steps = steps;
  });
  f.Real("clip_percentile", &c->clip_percentile, 0.0, 100.0);
  f.Real("data_scale", &c->data_scale, 1e-6, 1e6);
  f.Flag("excitation", &c->excitation);
  f.Size("smoothing", &c->smoothing, false, 0);
  if (const Json* points = f.Take("missing_band", false)) {
    for (const Json& point : points->items()) {
      const auto& pair = point.items();
      const bool numbers = pair.size() == 2 && pair[0].is(Json::Kind::kNumber) &&
                           pair[1].is(Json::Kind::kNumber) && std::fabs(pair[1].number()) <= 300.0;
      if (!numbers ||
          (!c->missing_band.empty() && !(pair[0].number() > c->missing_band.back().first))) {
        f.Bad("missing_band", "points [Hz, dB] of growing frequency");
        break;
      }
      c->missing_band.emplace_back(pair[0].number(), pair[1].number());
    }
  }
  f.Optional("token_length", [&] { f.Size("token_length", &c->token_length); });
  for (const char* name : {"loss_weight", "train_seconds", "train_from", "default_seconds",
                           "augmentation", "paper_params_m"}) {
    f.Skip(name);
  }
  N2M_RETURN_IF_ERROR(f.Done());

  const UNetConfig& u = c->unet;
  if (u.in_channels != (c->mel ? kMelChannels : 1))
    f.Note("unet.in_channels must be 1, or 80 for a mel spectrogram");
  const bool stacked = c->condition == Condition::kStacked,
             aligned = c->condition == Condition::kAligned;
  if (u.stacked_channels != (stacked ? 1 : 0))
    f.Note("unet.stacked_channels must be 1 with a stacked condition, else 0");
  if (u.aligned_channels != (aligned ? kMelChannels : 0))
    f.Note("unet.aligned_channels must be 80 with an aligned condition, else 0");
  if (stacked && c->condition_rate == 0)
    f.Note("condition_rate must be given with a stacked condition");
  if (aligned && u.compression() != kMelHop)
    f.Note("unet.strides must have the product 160 with an aligned condition");
  if (c->excitation && (!aligned || c->mel))
    f.Note("excitation must be false but for a waveform with an aligned mel spectrogram");
  if (!c->missing_band.empty() && (!stacked || c->missing_band.size() < 2)) {
    f.Note("missing_band must be two or more points, of a stage with a stacked condition");
  }
  if (c->smoothing % 2 != 0 || c->smoothing > 30 || (c->smoothing != 0 && !c->mel)) {
    f.Note("smoothing must be 0, or even and at most 30 for a mel spectrogram");
  }
  return f.Done();
}

Status ParseT5Config(const std::string& text, const std::string& file, T5Config* c) {
  *c = T5Config();
  Json json;
  N2M_RETURN_IF_ERROR(Json::Parse(text, file + ": the config", &json));
  Fields f(json, file + ": the config");
  f.Size("vocab_size", &c->vocab_size, true);
  f.Size("d_model", &c->d_model, true);
  f.Size("d_kv", &c->d_kv, true);
  f.Size("num_heads", &c->num_heads, true);
  f.Size("d_ff", &c->d_ff, true);
  f.Size("num_layers", &c->num_layers, true);
  f.Size("relative_attention_num_buckets", &c->buckets, false, 4);
  f.Size("relative_attention_max_distance", &c->max_distance);
  f.Real("layer_norm_epsilon", &c->epsilon, 1e-30, 1.0);
  f.Choice<bool>("feed_forward", {{"gated-gelu", true}, {"relu", false}}, &c->gated_gelu);
  if (c->buckets % 2 != 0) f.Bad("relative_attention_num_buckets", "even");
  if (c->max_distance <= c->buckets / 4)
    f.Bad("relative_attention_max_distance", "above a quarter of the buckets");
  return f.Done();
}

}  // namespace n2m
