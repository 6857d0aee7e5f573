// Any bytes as the arguments of WriteWav: format, rate, count, texts, samples.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "noise2music/pipeline.h"

namespace {

// Takes numbers off the front of the input.
struct Reader {
  const uint8_t* data;
  std::size_t size;
  template <class T>
  T Take() {
    T value{};
    const std::size_t n = std::min(size, sizeof(value));
    std::memcpy(&value, data, n);
    data += n;
    size -= n;
    return value;
  }
};

const std::string& Folder() {
  static const std::string folder = [] {
    char name[] = "/tmp/n2m-fuzz-XXXXXX";
    return std::string(mkdtemp(name));
  }();
  return folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  Reader in{data, size};
  n2m::WavOptions options;
  options.format = static_cast<n2m::WavFormat>(in.Take<int8_t>());
  const uint8_t flags = in.Take<uint8_t>();
  options.normalize = (flags & 1) != 0;
  const int64_t rate = in.Take<int64_t>(), claimed = in.Take<int64_t>();
  const std::size_t title = std::min<std::size_t>(in.Take<uint8_t>(), in.size);
  const std::string text(reinterpret_cast<const char*>(in.data), title);
  std::vector<float> samples((in.size - title) / sizeof(float));
  if (!samples.empty()) {
    std::memcpy(samples.data(), in.data + title, samples.size() * sizeof(float));
  }
  // Counts beyond the samples are legal to ask for only where they are refused before anything is
  // read.
  const bool refused = claimed < 1 || claimed > 500'000'000;
  const int64_t count =
      (flags & 2) != 0 && refused ? claimed : static_cast<int64_t>(samples.size());
  const std::string path = (flags & 4) != 0 ? text : Folder() + "/out.wav";
  if ((flags & 4) != 0 && path.find('/') != std::string::npos) return 0;  // stays in this folder
  const n2m::Status status = n2m::WriteWav(path, samples.data(), count, rate, options, text, text);
  if (status.ok()) unlink(path.c_str());
  return 0;
}
