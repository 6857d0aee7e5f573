// The names and shapes of a U-Net's weights.
#include <string>

#include "pipeline/unet.h"
#include "pipeline/unet_features.h"

namespace n2m {
namespace {

std::string At(const char* list, size_t i) {
  return std::string(list) + "." + std::to_string(i) + ".";
}

UNet::Attention LoadAttention(const std::string& name, int64_t c, int64_t memory, Weights* w) {
  const std::string at = name + ".";
  UNet::Attention a{};
  a.norm_scale = w->Floats(at + "norm_scale", {c});
  a.norm_offset = w->Floats(at + "norm_offset", {c});
  a.query = w->Take(at + "query", {c, c});
  a.key = w->Take(at + "key", {memory, c});
  a.value = w->Take(name, {memory, c});  // Python's writer leaves a last "value" out
  a.out = w->Take(at + "out", {c, c});
  a.ff_scale = w->Floats(at + "ff_scale", {c});
  a.ff_offset = w->Floats(at + "ff_offset", {c});
  a.ff_in = w->Take(at + "ff_in", {c, 2 * c});
  a.ff_in_bias = w->Floats(at + "ff_in_bias", {2 * c});
  a.ff_out = w->Take(at + "ff_out", {2 * c, c});
  a.ff_out_bias = w->Floats(at + "ff_out_bias", {c});
  return a;
}

UNet::Block LoadBlock(const UNetConfig& config, size_t level, const std::string& at, Weights* w) {
  const int64_t c = config.channels[level], k = config.kernel_size;
  UNet::Block b{};
  b.film = w->Floats(at + "film", {config.base_dim, 2 * c});
  b.film_bias = w->Floats(at + "film_bias", {2 * c});
  b.norm1_scale = w->Floats(at + "norm1_scale", {c});
  b.norm1_offset = w->Floats(at + "norm1_offset", {c});
  b.conv1 = w->Take(at + "conv1", {k, c, c});
  b.conv1_bias = w->Floats(at + "conv1_bias", {c});
  b.norm2_scale = w->Floats(at + "norm2_scale", {c});
  b.norm2_offset = w->Floats(at + "norm2_offset", {c});
  w->TakePair(at + "conv2", {k, c, c}, &b.conv2, at + "fc", {c, c}, &b.fc);
  b.conv2_bias = w->Floats(at + "conv2_bias", {c});
  if (config.clock_rate) b.clock = w->Take(at + "clock", {kClockFeatures, c});
  if (config.self_attention[level])
    b.self_attention = LoadAttention(at + "self_attention", c, c, w);
  if (config.cross_attention[level])
    b.cross_attention = LoadAttention(at + "cross_attention", c, config.text_dim, w);
  return b;
}

}  // namespace

void UNet::Load(const UNetConfig& given, Weights* w) {
  config = given;
  const int64_t base = config.base_dim, k = config.kernel_size;
  const auto conv = [&](const std::string& at, int64_t kernel, int64_t in, int64_t out) {
    return Conv{w->Take(at + "weight", {kernel, in, out}), w->Floats(at + "bias", {out})};
  };
  time_fc = w->Take("time_fc", {kTimeFeatures, base});
  time_bias = w->Floats("time_bias", {base});
  if (config.text_film && config.has_text()) text_fc = w->Take("text_fc", {config.text_dim, base});
  entry = conv("entry.", 3, config.in_channels + config.stacked_channels, base);
  exit = conv("exit.", 3, base, config.in_channels);
  for (size_t level = 0; level < config.depth(); ++level) {
    const int64_t above = config.width(level), here = config.width(level + 1);
    down.push_back(conv(At("down", level), k, above, here));
    up.push_back(conv(At("up", level), k, here, config.strides[level] * above));
    down_blocks.emplace_back();
    up_blocks.emplace_back();
    for (size_t i = 0; i < static_cast<size_t>(config.blocks[level]); ++i) {
      const std::string place = std::to_string(i) + ".";
      down_blocks.back().push_back(LoadBlock(config, level, At("down_blocks", level) + place, w));
      up_blocks.back().push_back(LoadBlock(config, level, At("up_blocks", level) + place, w));
    }
    if (config.skip_film) {
      const std::string at = At("skip_film", level);
      skip_film.push_back(
          {w->Floats(at + "kernel", {base, 2 * above}), w->Floats(at + "bias", {2 * above})});
    }
  }
  if (config.aligned_channels > 0) {
    const int64_t deepest = config.width(config.depth());
    aligned_fc = w->Take("aligned_fc", {config.aligned_channels, deepest});
    aligned_bias = w->Floats("aligned_bias", {deepest});
  }
}

}  // namespace n2m
