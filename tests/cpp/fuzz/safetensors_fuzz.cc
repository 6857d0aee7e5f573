// Any bytes as a file of weights: its header, its config, and a tensor as a network takes it.
#include <cstddef>
#include <cstdint>
#include <string>

#include "pipeline/config.h"
#include "pipeline/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  n2m::Safetensors file;
  if (!n2m::Safetensors::Read(bytes, "fuzz", &file).ok()) return 0;
  unsigned sum = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    for (std::size_t i = 0; i < tensor.bytes; ++i)
      sum += static_cast<unsigned char>(tensor.data[i]);
  }
  if (const std::string* text = file.Metadata("config")) {
    n2m::StageConfig stage;
    n2m::T5Config t5;
    const bool one = n2m::ParseStageConfig(*text, "fuzz", &stage).ok();
    const bool other = n2m::ParseT5Config(*text, "fuzz", &t5).ok();
    if (one && stage.unet.compression() < 1) __builtin_trap();
    if (other && t5.d_model < 1) __builtin_trap();
  }
  return sum == 0xFFFFFFFFu ? 1 : 0;
}
