// Runs one part of the pipeline on arrays of a safetensors file and writes what it made to another,
// so that a test can compare it with JAX:  probe PART MODEL_FILE INPUT OUTPUT
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "pipeline/check.h"
#include "pipeline/excitation.h"
#include "pipeline/json.h"
#include "pipeline/noise.h"
#include "pipeline/ops.h"
#include "pipeline/spectrum.h"
#include "pipeline/stage.h"
#include "pipeline/t5.h"
#include "pipeline/tempo.h"
#include "pipeline/tokenizer.h"

namespace n2m {
namespace {

struct Array {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using Arrays = std::map<std::string, Array>;

Status ReadArrays(const std::string& path, Arrays* out) {
  Safetensors file;
  N2M_RETURN_IF_ERROR(Safetensors::Open(path, &file));
  for (const auto& [name, tensor] : file.tensors()) {
    if (tensor.dtype != "F32")
      return Status::InvalidArgument("probe: " + name + " must be float32");
    Array& array = (*out)[name];
    array.shape = tensor.shape;
    array.values.resize(static_cast<size_t>(tensor.elements()));
    if (tensor.bytes > 0) std::memcpy(array.values.data(), tensor.data, tensor.bytes);
  }
  return Status::Ok();
}

void WriteArrays(const std::string& path, const Arrays& arrays) {
  std::string header = "{", data;
  for (const auto& [name, array] : arrays) {
    std::string shape;
    for (const int64_t size : array.shape)
      shape += (shape.empty() ? "" : ",") + std::to_string(size);
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(array.values.data()),
                array.values.size() * sizeof(float));
    header += (header.size() > 1 ? "," : "") + Json::Quoted(name) +
              ":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << header << data;
}

std::string TextOf(const Array& codes) {
  std::string text;
  for (const float code : codes.values)
    text.push_back(static_cast<char>(static_cast<unsigned char>(code)));
  return text;
}

Array Row(const std::vector<float>& values) {
  return {{static_cast<int64_t>(values.size())}, values};
}

// U-Net: x (T, C), t (1), and as the config has them stacked, aligned, text (B, L, M), tokens (B),
// beat (B).
Status RunUNet(const std::string& model, Arrays& in, Executor& executor, DType dtype, Arrays* out) {
  Weights weights;
  StageConfig config;
  std::string text;
  UNet unet;
  N2M_RETURN_IF_ERROR(weights.Open(model));
  N2M_RETURN_IF_ERROR(weights.Config(&text));
  N2M_RETURN_IF_ERROR(ParseStageConfig(text, model, &config));
  unet.Load(config.unet, &weights);
  N2M_RETURN_IF_ERROR(weights.Finish());
  std::vector<TextInput> texts;
  for (size_t b = 0; b < in["tokens"].values.size(); ++b) {
    const int64_t rows = in["text"].shape[1], width = in["text"].shape[2];
    texts.push_back({in["text"].values.data() + static_cast<int64_t>(b) * rows * width,
                     static_cast<int64_t>(in["tokens"].values[b]), in["beat"].values[b]});
  }
  if (texts.empty()) texts.emplace_back();
  Workspace workspace;
  const int64_t length = in["x"].shape[0], channels = in["x"].shape[1],
                branches = static_cast<int64_t>(texts.size());
  UNetRun run(unet, length, in.count("stacked") ? in["stacked"].values.data() : nullptr,
              in.count("aligned") ? in["aligned"].values.data() : nullptr, texts,
              {executor, workspace, dtype});
  N2M_RETURN_IF_ERROR(run.Plan());
  N2M_RETURN_IF_ERROR(workspace.Reserve());
  N2M_RETURN_IF_ERROR(run.Prepare());
  Array& y = (*out)["y"];
  y.shape = {branches, length, channels};
  y.values.resize(static_cast<size_t>(branches * length * channels));
  // The second step must not see what the first left. `repeat` more of them are for measure.py.
  const int repeats = in.count("repeat") ? static_cast<int>(in["repeat"].values[0]) : 2;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    N2M_RETURN_IF_ERROR(run.Step(in["x"].values.data(), in["t"].values[0], y.values.data()));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    (*out)["seconds"].values.push_back(static_cast<float>(took.count()));
  }
  (*out)["seconds"].shape = {repeats};
  return Status::Ok();
}

Status RunT5(const std::string& model, Arrays& in, Executor& executor, Arrays* out) {
  Weights weights;
  T5Config config;
  std::string text;
  T5Encoder encoder;
  N2M_RETURN_IF_ERROR(weights.Open(model));
  N2M_RETURN_IF_ERROR(weights.Config(&text));
  N2M_RETURN_IF_ERROR(ParseT5Config(text, model, &config));
  encoder.Load(config, &weights);
  N2M_RETURN_IF_ERROR(weights.Finish());
  std::vector<int32_t> tokens;
  for (const float id : in["tokens"].values) tokens.push_back(static_cast<int32_t>(id));
  Array& y = (*out)["y"];
  y.shape = {static_cast<int64_t>(tokens.size()), config.d_model};
  return encoder.Encode(tokens, executor, &y.values);
}

// Texts as bytes, each under its own name -> ids and tempo.
Status RunTokens(const std::string& model, Arrays& in, Arrays* out) {
  std::shared_ptr<const MappedFile> file;
  Tokenizer tokenizer;
  N2M_RETURN_IF_ERROR(MappedFile::Open(model, &file));
  N2M_RETURN_IF_ERROR(Tokenizer::Parse(file->bytes(), model, &tokenizer));
  for (const auto& [name, codes] : in) {
    bool cut = false;
    std::vector<float> ids;
    for (const int32_t id : tokenizer.Encode(TextOf(codes), 4096, &cut))
      ids.push_back(static_cast<float>(id));
    (*out)["ids " + name] = Row(ids);
    (*out)["tempo " + name] = Row({static_cast<float>(StatedTempo(TextOf(codes)))});
  }
  return Status::Ok();
}

// seed, clip, stage, step, n -> the noise of the contract.
Status RunNoise(Arrays& in, Executor& executor, Arrays* out) {
  const std::vector<float>& v = in["contract"].values;
  Key key = MakeKey(static_cast<uint64_t>(v[0]));
  for (size_t i = 1; i < 4; ++i) key = FoldIn(key, static_cast<uint32_t>(v[i]));
  std::vector<float> z(static_cast<size_t>(v[4]));
  Normal(key, static_cast<int64_t>(z.size()), z.data(), executor);
  (*out)["z"] = Row(z);
  return Status::Ok();
}

// samples (160 F), mel (F, 80) -> what excitation.py makes of them.
Status RunExcitation(Arrays& in, Executor& executor, Arrays* out) {
  const int64_t frames = in["mel"].shape[0];
  Array s{{frames, kBins}, std::vector<float>(static_cast<size_t>(frames * kBins))}, re = s, im = s;
  Magnitudes(in["mel"].values.data(), frames, s.values.data(), executor);
  Stft(in["samples"].values.data(), frames, re.values.data(), im.values.data(), executor);
  std::vector<float> parts(static_cast<size_t>(frames * kWindow)),
      back(in["samples"].values.size());
  Istft(re.values.data(), im.values.data(), frames, parts.data(), back.data(), executor);
  (*out)["magnitudes"] = s;
  (*out)["re"] = re;
  (*out)["im"] = im;
  (*out)["back"] = Row(back);
  std::vector<float> shaped = in["samples"].values;
  ShapeExcitation(in["mel"].values.data(), frames, shaped.data(), executor);
  (*out)["shaped"] = Row(shaped);
  Array low = in["mel"];
  LowPassInTime(frames, kMelChannels, 4, low.values.data());
  (*out)["low_pass"] = low;
  return Status::Ok();
}

// A whole stage: seed, clip, length in `contract`; text, tokens, beat as for the U-Net; condition.
Status RunStage(const std::string& model, Arrays& in, Executor& executor, Arrays* out) {
  std::unique_ptr<StageModel> stage;
  N2M_RETURN_IF_ERROR(StageModel::Open(model, &stage));
  N2M_RETURN_IF_ERROR(stage->Load());
  StageRequest request;
  request.seed = static_cast<uint32_t>(in["contract"].values[0]);
  request.clip = static_cast<uint32_t>(in["contract"].values[1]);
  request.length = static_cast<int64_t>(in["contract"].values[2]);
  request.steps = stage->MakeSteps({});
  for (size_t b = 0; b < in["tokens"].values.size(); ++b) {
    const int64_t rows = in["text"].shape[1], width = in["text"].shape[2];
    request.texts.push_back({in["text"].values.data() + static_cast<int64_t>(b) * rows * width,
                             static_cast<int64_t>(in["tokens"].values[b]), in["beat"].values[b]});
  }
  if (in.count("condition")) request.condition = &in["condition"].values;
  Array& y = (*out)["y"];
  N2M_RETURN_IF_ERROR(stage->Sample(request, DType::kFloat32, executor, nullptr, &y.values));
  y.shape = {request.length, stage->config().unet.in_channels};
  for (const Step& step : request.steps) {
    Array& table = (*out)["steps"];
    table.values.push_back(step.t);
    table.values.insert(table.values.end(), step.row, step.row + 8);
    table.values.push_back(step.c_p);
    table.shape = {static_cast<int64_t>(table.values.size()) / 10, 10};
  }
  return Status::Ok();
}

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "probe PART MODEL_FILE INPUT OUTPUT\n");
    return 2;
  }
  const std::string part = argv[1], model = argv[2];
  Arrays in, out;
  Status status = ReadArrays(argv[3], &in);
  const std::unique_ptr<Executor> executor = MakeThreadPool(2);
  if (status.ok()) {
    status = part == "unet"         ? RunUNet(model, in, *executor, DType::kFloat32, &out)
             : part == "unet_bf16"  ? RunUNet(model, in, *executor, DType::kBFloat16, &out)
             : part == "t5"         ? RunT5(model, in, *executor, &out)
             : part == "tokens"     ? RunTokens(model, in, &out)
             : part == "noise"      ? RunNoise(in, *executor, &out)
             : part == "excitation" ? RunExcitation(in, *executor, &out)
             : part == "stage"      ? RunStage(model, in, *executor, &out)
                                    : Status::InvalidArgument("probe: no part " + part);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  WriteArrays(argv[4], out);
  return 0;
}

}  // namespace
}  // namespace n2m

int main(int argc, char** argv) { return n2m::Main(argc, argv); }
