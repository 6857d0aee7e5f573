// n2m: the cascade as one program, without Python.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "noise2music/pipeline.h"
#include "noise2music/version.h"
#include "pipeline/check.h"
#include "program/arguments.h"

namespace n2m {
namespace {

constexpr char kUsage[] =
    "n2m: text to 24 kHz music\n"
    "\n"
    "  n2m generate -m DIR \"prompt\" -o out.wav   make a clip\n"
    "  n2m bench -m DIR                          time every stage\n"
    "  n2m info -m DIR                           what a model is made of\n"
    "\n"
    "DIR holds a released model: model.json, *.safetensors, tokenizer.json.\n"
    "\n"
    "  -m, --model DIR        the model\n"
    "  -o, --output FILE      a WAV file (generate)\n"
    "  -s, --seconds X        0.1 to 60, default 10\n"
    "  --seed N               default 0\n"
    "  --index N              position of the clip in the noise contract, default 0\n"
    "  --route NAME           spectrogram (default) or waveform\n"
    "  --steps N or STAGE=N,...       --guidance X or STAGE=X,...\n"
    "  --negative TEXT        what the music should keep away from\n"
    "  --sampler NAME         ancestral, ddim or dpm++\n"
    "  --gamma X              0 to 1\n"
    "  --denoising NAME       front_heavy, back_heavy or uniform\n"
    "  --until STAGE          the last stage to run\n"
    "  --bits 16|24|32        of the WAV file, 32 is float; default 16\n"
    "  --normalize            turn a quiet clip up\n"
    "  --threads N            default: all processors\n"
    "  --bfloat16             activations of the networks in bfloat16\n"
    "  --quiet                no progress\n"
    "  --version, --help\n";

volatile std::sig_atomic_t interrupted = 0;
void Interrupt(int) { interrupted = 1; }

using Clock = std::chrono::steady_clock;
double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// "20" for every stage, or "spectrogram_generator=50,spectrogram_vocoder=10".
template <class Set>
Status PerStage(const std::string& name, const std::string& text, GenerateOptions* options,
                const Set& set) {
  for (size_t at = 0; at <= text.size() && !text.empty();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string item = text.substr(at, comma - at);
    const size_t equals = item.find('=');
    const std::string number = equals == std::string::npos ? item : item.substr(equals + 1);
    double value = 0.0;
    if (!ParseNumber(number, &value) ||
        !set(equals == std::string::npos ? &options->every_stage
                                         : &options->stages[item.substr(0, equals)],
             value)) {
      return Status::InvalidArgument(
          name + " must be a number, or STAGE=number pairs with commas between, got " + text);
    }
    at = comma + 1;
  }
  return Status::Ok();
}

Status ReadOptions(const Arguments& a, GenerateOptions* o) {
  int64_t seed = 0, index = 0;
  N2M_RETURN_IF_ERROR(a.Number("--seconds", 0.1, 60.0, &o->seconds));
  N2M_RETURN_IF_ERROR(a.Whole("--seed", 0, 4294967295, &seed));
  N2M_RETURN_IF_ERROR(a.Whole("--index", 0, 2147483648, &index));
  o->seed = static_cast<uint32_t>(seed);
  o->index = static_cast<uint32_t>(index);
  o->route = a.Text("--route", o->route);
  N2M_RETURN_IF_ERROR(
      PerStage("--steps", a.Text("--steps"), o, [](StageOptions* own, double value) {
        own->steps = static_cast<int64_t>(value);
        return value == static_cast<double>(*own->steps) && value < 1e6;
      }));
  N2M_RETURN_IF_ERROR(
      PerStage("--guidance", a.Text("--guidance"), o, [](StageOptions* own, double value) {
        own->guidance = value;
        return true;
      }));
  if (a.Has("--negative")) o->negative = a.Text("--negative");
  o->sampler = a.Text("--sampler");
  if (a.Has("--gamma")) {
    double gamma = 0.0;
    N2M_RETURN_IF_ERROR(a.Number("--gamma", 0.0, 1.0, &gamma));
    o->gamma = gamma;
  }
  o->denoising = a.Text("--denoising");
  o->until = a.Text("--until");
  return Status::Ok();
}

Status Open(const Arguments& a, std::unique_ptr<Pipeline>* pipeline) {
  if (!a.Has("--model")) return Status::InvalidArgument("-m DIR must name the folder of a model");
  PipelineOptions options;
  int64_t threads = 0;
  N2M_RETURN_IF_ERROR(a.Whole("--threads", 0, 1024, &threads));
  options.num_threads = static_cast<int>(threads);
  if (a.Has("--bfloat16")) options.dtype = DType::kBFloat16;
  return Pipeline::Load(a.Text("--model"), options, pipeline);
}

Status GenerateCommand(const Arguments& a) {
  GenerateOptions options;
  WavOptions wav;
  N2M_RETURN_IF_ERROR(ReadOptions(a, &options));
  if (a.words().size() != 1) {
    return Status::InvalidArgument(
        "give one prompt in quotes (\"\" makes music without any wish), got " +
        std::to_string(a.words().size()));
  }
  const std::string path = a.Text("--output"), bits = a.Text("--bits", "16");
  if (path.empty()) return Status::InvalidArgument("-o FILE must name a WAV file");
  if (path.size() < 4 || path.compare(path.size() - 4, 4, ".wav") != 0) {
    return Status::InvalidArgument("-o must end in .wav, got " + path);
  }
  if (bits != "16" && bits != "24" && bits != "32")
    return Status::InvalidArgument("--bits must be 16, 24 or 32, got " + bits);
  wav.format = bits == "16"   ? WavFormat::kPcm16
               : bits == "24" ? WavFormat::kPcm24
                              : WavFormat::kFloat32;
  wav.normalize = a.Has("--normalize");
  std::unique_ptr<Pipeline> pipeline;
  N2M_RETURN_IF_ERROR(Open(a, &pipeline));

  const bool shown = !a.Has("--quiet") && isatty(STDERR_FILENO) != 0;
  std::signal(SIGINT, Interrupt);
  std::signal(SIGTERM, Interrupt);
  options.progress = [shown](const std::string& stage, int64_t done, int64_t total) {
    if (shown) {
      std::fprintf(stderr, "\r\033[K%s %lld/%lld", stage.c_str(), static_cast<long long>(done),
                   static_cast<long long>(total));
    }
    return interrupted == 0;
  };
  Clip clip;
  const Status made = pipeline->Generate(a.words()[0], options, &clip);
  if (shown) std::fputs("\r\033[K", stderr);
  N2M_RETURN_IF_ERROR(made);
  N2M_RETURN_IF_ERROR(WriteWav(path, clip, wav));
  std::printf("%s: %.2f s, %lld Hz, seed %u\n", path.c_str(),
              static_cast<double>(clip.samples.size()) / static_cast<double>(clip.sample_rate),
              static_cast<long long>(clip.sample_rate), options.seed);
  return Status::Ok();
}

// Times the stages of one clip: the first run reads the weights, the second has everything in
// memory.
Status BenchCommand(const Arguments& a) {
  GenerateOptions options;
  N2M_RETURN_IF_ERROR(ReadOptions(a, &options));
  const std::string prompt =
      a.words().empty() ? "slow church organ chorale in D minor" : a.words()[0];
  const Clock::time_point start = Clock::now();
  std::unique_ptr<Pipeline> pipeline;
  N2M_RETURN_IF_ERROR(Open(a, &pipeline));
  std::printf("load              %8.3f s\n", Since(start));
  for (const char* run : {"first", "second"}) {
    std::string stage;
    Clock::time_point stage_start = Clock::now();
    const Clock::time_point run_start = stage_start;
    options.progress = [&](const std::string& name, int64_t done, int64_t total) {
      if (name != stage) {
        stage = name;
        stage_start = Clock::now();
      }
      if (done == total) {
        std::printf("%-6s %-26s %3lld steps %8.3f s %9.2f ms a step\n", run, name.c_str(),
                    static_cast<long long>(total), Since(stage_start),
                    1e3 * Since(stage_start) / static_cast<double>(total));
      }
      return true;
    };
    Clip clip;
    N2M_RETURN_IF_ERROR(pipeline->Generate(prompt, options, &clip));
    std::printf("%-6s %-26s %18.3f s\n", run, "all", Since(run_start));
  }
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) == 0)
    std::printf("peak memory       %8.1f MiB\n", static_cast<double>(usage.ru_maxrss) / 1024.0);
  return Status::Ok();
}

Status InfoCommand(const Arguments& a) {
  std::unique_ptr<Pipeline> pipeline;
  N2M_RETURN_IF_ERROR(Open(a, &pipeline));
  std::vector<StageInfo> stages;
  N2M_RETURN_IF_ERROR(pipeline->Info(&stages));
  std::printf("model %s, noise2music %s\n", pipeline->name().c_str(), NOISE2MUSIC_VERSION);
  for (const std::string& route : pipeline->routes()) std::printf("route %s\n", route.c_str());
  for (const StageInfo& stage : stages) {
    std::printf("%-26s %10lld parameters %6lld Hz %5lld steps\n", stage.name.c_str(),
                static_cast<long long>(stage.parameters), static_cast<long long>(stage.rate),
                static_cast<long long>(stage.steps));
  }
  return Status::Ok();
}

int Main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "--help";
  if (command == "--help" || command == "-h") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (command == "--version") {
    std::printf("n2m %s\n", NOISE2MUSIC_VERSION);
    return 0;
  }
  Arguments arguments(
      {"--model", "--output", "--seconds", "--seed", "--index", "--route", "--steps", "--guidance",
       "--negative", "--sampler", "--gamma", "--denoising", "--until", "--bits", "--threads"},
      {"--normalize", "--bfloat16", "--quiet", "--help"},
      {{"-m", "--model"},
       {"-o", "--output"},
       {"-s", "--seconds"},
       {"-q", "--quiet"},
       {"-h", "--help"}});
  Status status = arguments.Read(argc - 2, argv + 2);
  if (status.ok() && arguments.Has("--help")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (status.ok()) {
    if (command == "generate") {
      status = GenerateCommand(arguments);
    } else if (command == "bench") {
      status = BenchCommand(arguments);
    } else if (command == "info") {
      status = InfoCommand(arguments);
    } else {
      status =
          Status::InvalidArgument("the command must be generate, bench or info, got " + command);
    }
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "n2m: %s\n", status.message().c_str());
  return status.code() == StatusCode::kCancelled   ? 130
         : status.code() == StatusCode::kBadOutput ? 1
                                                   : 2;
}

}  // namespace
}  // namespace n2m

int main(int argc, char** argv) { return n2m::Main(argc, argv); }
