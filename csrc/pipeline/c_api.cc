// The C functions: pointers are checked, exceptions (memory alone can throw here) become codes.
#include "noise2music/c_api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "noise2music/pipeline.h"
#include "noise2music/version.h"

struct n2m_pipeline {
  std::unique_ptr<n2m::Pipeline> pipeline;
};
struct n2m_clip {
  n2m::Clip clip;
};

namespace {

std::string& LastError() {
  static thread_local std::string message;
  return message;
}

n2m_status Fail(n2m_status code, const char* message) noexcept {
  try {
    LastError() = message;
  } catch (...) {  // no memory for the message: the code says it
  }
  return code;
}

n2m_status Null(const char* argument) {
  return Fail(N2M_INVALID_ARGUMENT,
              (std::string("n2m.c_api: ") + argument + " must not be NULL").c_str());
}

// body() -> n2m::Status.
template <class Body>
n2m_status Guarded(const Body& body) noexcept {
  try {
    const n2m::Status status = body();
    if (status.ok()) return N2M_OK;
    return Fail(static_cast<n2m_status>(status.code()), status.message().c_str());
  } catch (const std::bad_alloc&) {
    return Fail(N2M_OUT_OF_MEMORY, "n2m.c_api: out of memory");
  } catch (const std::exception& error) {
    return Fail(N2M_INVALID_ARGUMENT, error.what());
  }
}

// What the caller's struct holds, over what this version knows of it.
template <class Options>
n2m::Status Read(const Options* given, Options* out) {
  if (given == nullptr) return n2m::Status::Ok();
  if (given->struct_size < sizeof(size_t) || given->struct_size > sizeof(Options)) {
    return n2m::Status::InvalidArgument("n2m.c_api: struct_size of the options must be at most " +
                                        std::to_string(sizeof(Options)) + ", got " +
                                        std::to_string(given->struct_size));
  }
  std::memcpy(static_cast<void*>(out), given, given->struct_size);
  return n2m::Status::Ok();
}

}  // namespace

extern "C" {

const char* n2m_last_error(void) { return LastError().c_str(); }

const char* n2m_version(void) { return NOISE2MUSIC_VERSION; }

void n2m_pipeline_defaults(n2m_pipeline_options* options) {
  if (options != nullptr) *options = n2m_pipeline_options{sizeof(n2m_pipeline_options), 0, 0};
}

void n2m_generate_defaults(n2m_generate_options* options) {
  if (options == nullptr) return;
  *options = n2m_generate_options{};
  options->struct_size = sizeof(n2m_generate_options);
  options->seconds = 10.0;
  options->guidance = -1.0;
}

n2m_status n2m_pipeline_load(const char* folder, const n2m_pipeline_options* options,
                             n2m_pipeline** out) {
  if (out == nullptr) return Null("out");
  *out = nullptr;
  if (folder == nullptr) return Null("folder");
  return Guarded([&] {
    n2m_pipeline_options own;
    n2m_pipeline_defaults(&own);
    n2m::Status status = Read(options, &own);
    if (!status.ok()) return status;
    n2m::PipelineOptions settings;
    settings.num_threads = own.num_threads;
    settings.dtype = own.bfloat16 != 0 ? n2m::DType::kBFloat16 : n2m::DType::kFloat32;
    auto made = std::make_unique<n2m_pipeline>();
    status = n2m::Pipeline::Load(folder, settings, &made->pipeline);
    if (status.ok()) *out = made.release();
    return status;
  });
}

void n2m_pipeline_free(n2m_pipeline* pipeline) { delete pipeline; }

n2m_status n2m_generate(n2m_pipeline* pipeline, const char* prompt,
                        const n2m_generate_options* options, n2m_clip** out) {
  if (out == nullptr) return Null("out");
  *out = nullptr;
  if (pipeline == nullptr) return Null("pipeline");
  if (prompt == nullptr) return Null("prompt");
  return Guarded([&] {
    n2m_generate_options own;
    n2m_generate_defaults(&own);
    n2m::Status status = Read(options, &own);
    if (!status.ok()) return status;
    n2m::GenerateOptions settings;
    if (own.seconds != 0.0) settings.seconds = own.seconds;
    settings.seed = own.seed;
    settings.index = own.index;
    if (own.route != nullptr) settings.route = own.route;
    if (own.negative != nullptr) settings.negative = own.negative;
    if (own.steps != 0) settings.every_stage.steps = own.steps;
    if (!(own.guidance < 0.0)) settings.every_stage.guidance = own.guidance;
    if (own.progress != nullptr) {
      settings.progress = [&own](const std::string& stage, int64_t done, int64_t total) {
        return own.progress(stage.c_str(), done, total, own.user_data) == 0;
      };
    }
    auto made = std::make_unique<n2m_clip>();
    status = pipeline->pipeline->Generate(prompt, settings, &made->clip);
    if (status.ok()) *out = made.release();
    return status;
  });
}

void n2m_clip_free(n2m_clip* clip) { delete clip; }

const float* n2m_clip_samples(const n2m_clip* clip) {
  return clip == nullptr ? nullptr : clip->clip.samples.data();
}

int64_t n2m_clip_length(const n2m_clip* clip) {
  return clip == nullptr ? 0 : static_cast<int64_t>(clip->clip.samples.size());
}

int32_t n2m_clip_sample_rate(const n2m_clip* clip) {
  return clip == nullptr ? 0 : static_cast<int32_t>(clip->clip.sample_rate);
}

const char* n2m_clip_metadata(const n2m_clip* clip) {
  return clip == nullptr ? "" : clip->clip.metadata.c_str();
}

n2m_status n2m_clip_write_wav(const n2m_clip* clip, const char* path, n2m_wav_format format) {
  if (clip == nullptr) return Null("clip");
  if (path == nullptr) return Null("path");
  return Guarded([&] {
    n2m::WavOptions options;
    options.format = static_cast<n2m::WavFormat>(format);
    return n2m::WriteWav(path, clip->clip, options);
  });
}

}  // extern "C"
