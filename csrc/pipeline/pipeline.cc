#include "noise2music/pipeline.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "noise2music/version.h"
#include "pipeline/check.h"
#include "pipeline/json.h"
#include "pipeline/sha256.h"
#include "pipeline/stage.h"
#include "pipeline/t5.h"
#include "pipeline/tempo.h"
#include "pipeline/tokenizer.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

constexpr size_t kMostCharacters =
    2000;  // of a prompt; no text encoder here reads more than 96 tokens

Status Bad(const std::string& rule) { return Status::InvalidArgument("n2m.pipeline: " + rule); }

template <class Names>
std::string Joined(const Names& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

// A prompt as it is used: well-formed, no white space at its ends, at most kMostCharacters.
std::string CleanPrompt(const std::string& prompt) {
  const auto space = [](uint32_t c) { return IsSpace(c) || (c >= 0x1C && c <= 0x1F); };
  std::vector<uint32_t> text = DecodeUtf8(prompt);
  std::replace(text.begin(), text.end(), 0u, static_cast<uint32_t>(' '));
  const auto trim = [&] {
    while (!text.empty() && space(text.back())) text.pop_back();
  };
  trim();
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  if (text.size() > kMostCharacters) text.resize(kMostCharacters);
  trim();
  return EncodeUtf8(text);
}

// A number as Python's JSON writes a float: the shortest that reads back.
std::string Number(double value) {
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  const bool whole = std::string(text).find_first_of(".en") == std::string::npos;
  return std::string(text) + (whole ? ".0" : "");
}

}  // namespace

struct __attribute__((visibility("hidden"))) Pipeline::Impl {
  // The states of a text, and what the stages hear of it.
  struct Text {
    std::vector<float> states;
    int64_t tokens = 0;
    float beat = 0.0f;
    TextInput input() const {
      return tokens == 0 ? TextInput() : TextInput{states.data(), tokens, beat};
    }
  };

  std::string folder, name, hash;
  PipelineOptions options;
  std::unique_ptr<Executor> executor;
  std::vector<std::string> names;  // as model.json lists them
  std::map<std::string, std::unique_ptr<StageModel>> stages;
  Weights text_weights;
  T5Encoder text_encoder;
  Tokenizer tokenizer;
  bool text_loaded = false;

  std::string Path(const std::string& file) const { return folder + "/" + file; }
  Status Open();
  Status LoadText();
  Status Embed(const std::string& text, Text* out);
  Status Check(const GenerateOptions& o, std::vector<std::string>* route) const;
  Status Run(const std::string& prompt, const GenerateOptions& o,
             const std::vector<std::string>& route, Clip* clip);
  Status Hash();
  std::string Metadata(const std::string& prompt, const GenerateOptions& o,
                       const std::vector<std::string>& route) const;
};

Pipeline::Pipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pipeline::~Pipeline() = default;
const std::string& Pipeline::name() const { return impl_->name; }

std::vector<std::string> Pipeline::routes() const {
  std::vector<std::string> found;
  for (const char* route : {"spectrogram", "waveform"}) {
    const auto& needed = *RouteStages(route);
    if (std::all_of(needed.begin(), needed.end(),
                    [&](const auto& stage) { return impl_->stages.count(stage) > 0; })) {
      found.push_back(route);
    }
  }
  return found;
}

Status Pipeline::Load(const std::string& folder, const PipelineOptions& options,
                      std::unique_ptr<Pipeline>* out) {
  if (options.dtype != DType::kFloat32 && options.dtype != DType::kBFloat16)
    return Bad("dtype must be float32 or bfloat16");
  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  impl->options = options;
  impl->executor = MakeThreadPool(options.num_threads);
  N2M_RETURN_IF_ERROR(impl->Open());
  out->reset(new Pipeline(std::move(impl)));
  return Status::Ok();
}

Status Pipeline::Impl::Open() {
  std::shared_ptr<const MappedFile> file;
  N2M_RETURN_IF_ERROR(MappedFile::Open(Path("model.json"), &file));
  Json card;
  N2M_RETURN_IF_ERROR(Json::Parse(file->bytes(), Path("model.json"), &card));
  const Json *title = card.Find("name"), *list = card.Find("stages");
  if (title == nullptr || list == nullptr || !title->is(Json::Kind::kString) ||
      !list->is(Json::Kind::kArray)) {
    return Bad(Path("model.json") + " must have a name and stages");
  }
  name = title->string();
  for (const Json& item : list->items()) {
    const std::string& stage = item.string();
    if (std::find(kStages.begin(), kStages.end(), stage) == kStages.end() ||
        stages.count(stage) > 0) {
      return Bad("stages of " + Path("model.json") + " must be some of " + Joined(kStages) +
                 ", got " + Json::Quoted(stage));
    }
    names.push_back(stage);
    N2M_RETURN_IF_ERROR(StageModel::Open(Path(stage + ".safetensors"), &stages[stage]));
    if (stages[stage]->config().name != stage) {
      return Bad(Path(stage + ".safetensors") + " must hold " + stage + ", got " +
                 stages[stage]->config().name);
    }
  }
  return Status::Ok();
}

Status Pipeline::Impl::LoadText() {
  if (text_loaded) return Status::Ok();
  const std::string path = Path("text_encoder.safetensors");
  std::string text;
  T5Config config;
  text_weights = Weights();
  text_encoder = T5Encoder();
  N2M_RETURN_IF_ERROR(text_weights.Open(path));
  N2M_RETURN_IF_ERROR(text_weights.Config(&text));
  N2M_RETURN_IF_ERROR(ParseT5Config(text, path, &config));
  text_encoder.Load(config, &text_weights);
  N2M_RETURN_IF_ERROR(text_weights.Finish());
  std::shared_ptr<const MappedFile> file;
  N2M_RETURN_IF_ERROR(MappedFile::Open(Path("tokenizer.json"), &file));
  N2M_RETURN_IF_ERROR(Tokenizer::Parse(file->bytes(), Path("tokenizer.json"), &tokenizer));
  if (tokenizer.vocab_size() > config.vocab_size) {
    return Bad(Path("tokenizer.json") + " must have at most " + std::to_string(config.vocab_size) +
               " ids, got " + std::to_string(tokenizer.vocab_size()));
  }
  for (const auto& stage : stages) {
    const UNetConfig& unet = stage.second->config().unet;
    if (unet.has_text() && unet.text_dim != config.d_model) {
      return Bad("text_dim of " + stage.first + " must be the text encoder's d_model " +
                 std::to_string(config.d_model) + ", got " + std::to_string(unet.text_dim));
    }
  }
  text_loaded = true;
  return Status::Ok();
}

// The T5 states of a text; an empty one is dropped: the unconditional model.
Status Pipeline::Impl::Embed(const std::string& text, Text* out) {
  *out = Text();
  if (text.empty()) return Status::Ok();
  N2M_RETURN_IF_ERROR(LoadText());
  int64_t length = 1;
  for (const auto& stage : stages) length = std::max(length, stage.second->config().token_length);
  bool cut = false;
  const std::vector<int32_t> tokens = tokenizer.Encode(text, length, &cut);
  out->tokens = static_cast<int64_t>(tokens.size());
  out->beat = static_cast<float>(StatedTempo(text) / 60.0);
  return text_encoder.Encode(tokens, *executor, &out->states);
}

Status Pipeline::Impl::Check(const GenerateOptions& o, std::vector<std::string>* route) const {
  if (!(o.seconds >= 0.1 && o.seconds <= 60.0))
    return Bad("seconds must be from 0.1 to 60, got " + Number(o.seconds));
  const std::vector<std::string>* found = RouteStages(o.route);
  if (found == nullptr)
    return Bad("route must be spectrogram or waveform, got " + Json::Quoted(o.route));
  *route = *found;
  for (const std::string& stage : *route) {
    if (stages.count(stage) == 0)
      return Bad("model " + name + " lacks " + stage + " of route " + o.route);
  }
  const auto check = [](const std::string& where, const StageOptions& own) {
    if (own.steps && (*own.steps < 1 || *own.steps > 10000)) {
      return Bad("steps" + where + " must be from 1 to 10000, got " + std::to_string(*own.steps));
    }
    if (own.guidance && !(*own.guidance >= 0.0 && *own.guidance <= 100.0)) {
      return Bad("guidance" + where + " must be from 0 to 100, got " + Number(*own.guidance));
    }
    return Status::Ok();
  };
  N2M_RETURN_IF_ERROR(check("", o.every_stage));
  for (const auto& own : o.stages) {
    if (std::find(route->begin(), route->end(), own.first) == route->end()) {
      return Bad("stages must be among " + Joined(*route) + ", got " + Json::Quoted(own.first));
    }
    N2M_RETURN_IF_ERROR(check(" of " + own.first, own.second));
  }
  SamplerKind kind;
  if (!o.sampler.empty() && !ParseSampler(o.sampler, &kind)) {
    return Bad("sampler must be ancestral, ddim or dpm++, got " + Json::Quoted(o.sampler));
  }
  if (o.gamma && !(*o.gamma >= 0.0 && *o.gamma <= 1.0))
    return Bad("gamma must be from 0 to 1, got " + Number(*o.gamma));
  if (!o.denoising.empty() && o.denoising != "front_heavy" && o.denoising != "back_heavy" &&
      o.denoising != "uniform") {
    return Bad("denoising must be front_heavy, back_heavy or uniform, got " +
               Json::Quoted(o.denoising));
  }
  if (!o.until.empty()) {
    const auto last = std::find(route->begin(), route->end(), o.until);
    if (last == route->end() || stages.at(o.until)->config().mel) {
      return Bad("until must be a stage of the route that makes sound, got " +
                 Json::Quoted(o.until));
    }
    route->erase(last + 1, route->end());
  }
  return Status::Ok();
}

Status Pipeline::Generate(const std::string& prompt, const GenerateOptions& options, Clip* clip) {
  *clip = Clip();
  std::vector<std::string> route;
  N2M_RETURN_IF_ERROR(impl_->Check(options, &route));
  Clip made;
  N2M_RETURN_IF_ERROR(impl_->Run(prompt, options, route, &made));
  *clip = std::move(made);
  return Status::Ok();
}

Status Pipeline::Impl::Run(const std::string& prompt, const GenerateOptions& o,
                           const std::vector<std::string>& route, Clip* clip) {
  clip->prompt = CleanPrompt(prompt);
  Text text, negative;
  N2M_RETURN_IF_ERROR(Embed(clip->prompt, &text));
  if (o.negative) N2M_RETURN_IF_ERROR(Embed(CleanPrompt(*o.negative), &negative));
  // 16 kHz samples: whole mel frames, whole 3.2 kHz samples and whole 24 kHz samples at once.
  const int64_t n16 = static_cast<int64_t>(std::ceil(o.seconds * 16000.0 / kMelHop)) * kMelHop;
  for (const std::string& stage_name : route) {
    StageModel& stage = *stages.at(stage_name);
    N2M_RETURN_IF_ERROR(stage.Load());
    const StageConfig& config = stage.config();
    StageRequest request;
    request.length = n16 * config.rate / 16000;
    request.seed = o.seed;
    request.clip = o.index;
    request.steps = stage.MakeSteps(o);
    if (config.unet.has_text()) {
      request.texts = {text.input()};
      // Without any text to keep away from or to go to, both branches would be the same.
      const bool guided =
          request.steps.front().row[0] != 1.0f && (text.tokens > 0 || negative.tokens > 0);
      if (guided) request.texts.push_back(negative.input());
    }
    request.condition = clip->stages.empty() ? nullptr : &clip->stages.back().values;
    StageOutput output{stage_name, config.rate, config.unet.in_channels, {}};
    N2M_RETURN_IF_ERROR(
        stage.Sample(request, options.dtype, *executor, o.progress, &output.values));
    clip->stages.push_back(std::move(output));
  }
  for (StageOutput& output : clip->stages) {
    const int64_t frames =
        std::max<int64_t>(1, std::llrint(o.seconds * static_cast<double>(output.rate)));
    output.values.resize(static_cast<size_t>(frames * output.channels));
  }
  clip->samples = clip->stages.back().values;
  clip->sample_rate = clip->stages.back().rate;
  N2M_RETURN_IF_ERROR(Hash());
  clip->metadata = Metadata(clip->prompt, o, route);
  return Status::Ok();
}

// sha256 over the model's files in the order of their names, 16 hex digits: what Python's
// Pipeline.model_hash is.
Status Pipeline::Impl::Hash() {
  if (!hash.empty()) return Status::Ok();
  std::vector<std::string> files;
  for (const std::string& stage : names) files.push_back(Path(stage + ".safetensors"));
  files.push_back(Path("text_encoder.safetensors"));
  files.push_back(Path("tokenizer.json"));
  std::sort(files.begin(), files.end());
  Sha256 sha;
  for (const std::string& path : files) {
    std::shared_ptr<const MappedFile> file;
    if (MappedFile::Open(path, &file).ok()) sha.Update(file->bytes());
  }
  hash = sha.Hex().substr(0, 16);
  return Status::Ok();
}

std::string Pipeline::Impl::Metadata(const std::string& prompt, const GenerateOptions& o,
                                     const std::vector<std::string>& route) const {
  std::map<std::string, std::string> entries;  // sorted, as Python writes them
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? std::string("null") : Json::Quoted(text);
  };
  entries["model"] = Json::Quoted(name);
  entries["model_hash"] = Json::Quoted(hash);
  entries["version"] = Json::Quoted(NOISE2MUSIC_VERSION);
  entries["prompt"] = Json::Quoted(prompt);
  entries["negative"] = o.negative ? Json::Quoted(CleanPrompt(*o.negative)) : "null";
  entries["seconds"] = Number(o.seconds);
  entries["seed"] = std::to_string(o.seed);
  entries["index"] = std::to_string(o.index);
  entries["route"] = Json::Quoted(o.route);
  entries["sampler"] = text_or_null(o.sampler);
  entries["gamma"] = o.gamma ? Number(*o.gamma) : "null";
  entries["denoising"] = text_or_null(o.denoising);
  entries["until"] = text_or_null(o.until);
  std::string steps, guidance;
  for (const std::string& stage : route) {
    const StageModel& model = *stages.at(stage);
    const std::vector<Step> own = model.MakeSteps(o);
    steps += (steps.empty() ? "" : ", ") + Json::Quoted(stage) + ": " + std::to_string(own.size());
    if (model.config().unet.has_text()) {
      guidance += (guidance.empty() ? "" : ", ") + Json::Quoted(stage) + ": " +
                  Number(static_cast<double>(own.front().row[0]));
    }
  }
  entries["steps"] = "{" + steps + "}";
  entries["guidance"] = "{" + guidance + "}";
  std::string out;
  for (const auto& entry : entries)
    out += (out.empty() ? "{" : ", ") + Json::Quoted(entry.first) + ": " + entry.second;
  return out + "}";
}

Status Pipeline::Info(std::vector<StageInfo>* out) {
  out->clear();
  for (const std::string& name : impl_->names) {
    StageModel& stage = *impl_->stages.at(name);
    N2M_RETURN_IF_ERROR(stage.Load());
    out->push_back({name, stage.parameters(), stage.config().rate,
                    static_cast<int64_t>(stage.MakeSteps({}).size())});
  }
  return Status::Ok();
}

}  // namespace n2m
