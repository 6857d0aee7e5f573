// WAV files: RIFF chunks of the format, the samples, and the texts of a LIST/INFO chunk behind
// them.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "noise2music/pipeline.h"
#include "pipeline/excitation.h"

namespace n2m {
namespace {

void Number(uint32_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i)
    out->push_back(static_cast<char>(static_cast<unsigned char>(value >> (8 * i))));
}

void Chunk(const char* id, const std::string& body, std::string* out) {
  out->append(id, 4);
  Number(static_cast<uint32_t>(body.size()), 4, out);
  *out += body;
  if (body.size() % 2 != 0) out->push_back('\0');
}

std::string Samples(const std::vector<float>& samples, WavFormat format) {
  std::string out;
  const int bytes = format == WavFormat::kPcm16 ? 2 : format == WavFormat::kPcm24 ? 3 : 4;
  out.reserve(samples.size() * static_cast<size_t>(bytes));
  for (const float value : samples) {
    uint32_t bits = 0;
    if (format == WavFormat::kFloat32) {
      std::memcpy(&bits, &value, sizeof(bits));
    } else {
      const double largest = format == WavFormat::kPcm16 ? 32767.0 : 8388607.0;
      bits = static_cast<uint32_t>(
          std::lrint(std::clamp(static_cast<double>(value), -1.0, 1.0) * largest));
    }
    Number(bits, bytes, &out);
  }
  return out;
}

std::string Folder(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

Status Failed(const std::string& path) {
  return Status::InvalidArgument("n2m.wav: " + path +
                                 " cannot be written: " + std::strerror(errno));
}

bool WriteAll(int file, const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t written = write(file, bytes.data() + at, bytes.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

Status WriteWav(const std::string& path, const float* samples, int64_t count, int64_t sample_rate,
                const WavOptions& options, const std::string& title, const std::string& metadata) {
  const auto bad = [](const std::string& rule, int64_t got) {
    return Status::InvalidArgument("n2m.wav: " + rule + ", got " + std::to_string(got));
  };
  if (count < 1 || samples == nullptr)
    return bad("count must be at least 1", samples == nullptr ? 0 : count);
  if (count > 500'000'000)
    return bad("count must be at most 500000000: a WAV file has 32-bit sizes", count);
  if (sample_rate < 1 || sample_rate > 1'000'000)
    return bad("sample_rate must be from 1 to 1000000", sample_rate);
  const int kind = static_cast<int>(options.format);
  if (kind < 0 || kind > 2) return bad("format must be kPcm16, kPcm24 or kFloat32", kind);
  if (title.size() + metadata.size() > 100'000'000) {
    return bad("title and metadata must be at most 100000000 bytes",
               static_cast<int64_t>(title.size() + metadata.size()));
  }
  if (path.empty() || path.find('\0') != std::string::npos) {
    return bad("path must be the name of a file", static_cast<int64_t>(path.size()));
  }
  std::vector<float> safe(samples, samples + count);
  if (!LimitPeak(count, options.normalize, safe.data())) {
    return Status::InvalidArgument("n2m.wav: samples must be finite, got NaN or infinity");
  }

  const bool is_float = options.format == WavFormat::kFloat32;
  const uint32_t bytes = options.format == WavFormat::kPcm16   ? 2
                         : options.format == WavFormat::kPcm24 ? 3
                                                               : 4;
  const uint32_t rate = static_cast<uint32_t>(sample_rate);
  std::string format, body = "WAVE";
  Number(is_float ? 3 : 1, 2, &format);
  Number(1, 2, &format);  // channels
  Number(rate, 4, &format);
  Number(rate * bytes, 4, &format);
  Number(bytes, 2, &format);
  Number(8 * bytes, 2, &format);
  Chunk("fmt ", format, &body);
  if (is_float) {
    std::string fact;
    Number(static_cast<uint32_t>(count), 4, &fact);
    Chunk("fact", fact, &body);
  }
  Chunk("data", Samples(safe, options.format), &body);
  std::string info = "INFO";
  const auto tag = [&](const char* id, const std::string& text) {
    if (!text.empty()) Chunk(id, text + '\0', &info);
  };
  tag("INAM", title);
  tag("ISFT", "noise2music");
  tag("ICMT", metadata);
  Chunk("LIST", info, &body);
  std::string whole;
  Chunk("RIFF", body, &whole);

  // A new file in the same folder, which replaces the other when it is complete.
  std::string part = Folder(path) + ".n2m-XXXXXX";
  const int file = mkstemp(part.data());
  if (file < 0) return Failed(path);
  const bool written = fchmod(file, 0644) == 0 && WriteAll(file, whole);
  const int reason = errno;
  const bool closed = close(file) == 0;
  if (!written || !closed || std::rename(part.c_str(), path.c_str()) != 0) {
    if (!written) errno = reason;
    const Status status = Failed(path);
    unlink(part.c_str());
    return status;
  }
  return Status::Ok();
}

Status WriteWav(const std::string& path, const Clip& clip, const WavOptions& options) {
  std::string metadata = clip.metadata;
  if (!metadata.empty() && metadata.front() == '{') {
    const char* bits = options.format == WavFormat::kPcm16   ? "16"
                       : options.format == WavFormat::kPcm24 ? "24"
                                                             : "32";
    metadata = std::string("{\"bits\": ") + bits +
               ", \"normalize\": " + (options.normalize ? "true" : "false") + ", " +
               metadata.substr(1);
  }
  // The title's first 200 bytes, not cut inside a character.
  std::string title = clip.prompt.substr(0, 200);
  while (title.size() < clip.prompt.size() && !title.empty() &&
         (clip.prompt[title.size()] & 0xC0) == 0x80)
    title.pop_back();
  return WriteWav(path, clip.samples.data(), static_cast<int64_t>(clip.samples.size()),
                  clip.sample_rate, options, title, metadata);
}

}  // namespace n2m
