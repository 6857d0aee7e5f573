// What a U-Net computes once a clip: the memory of a step, the clock, the text, the aligned input.
#include "pipeline/unet.h"

#include <algorithm>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/unet_features.h"

namespace n2m {

void UNetRun::NewConstants(const std::vector<UNet::Block>& blocks, int64_t level,
                           std::vector<Constant>* out) {
  const int64_t channels = config_.width(static_cast<size_t>(level) + 1);
  int64_t time = length_;
  for (int64_t l = 0; l <= level; ++l) time /= config_.strides[static_cast<size_t>(l)];
  for (const UNet::Block& block : blocks) {
    Constant constant;
    if (config_.clock_rate)
      constant.clock = c_.workspace.Take(branches() * time * channels * BytesOf(c_.dtype));
    if (block.cross_attention) {
      for (const TextInput& text : texts_) {
        constant.memories.push_back(text.tokens > 0 ? c_.workspace.TakeFloats(AttentionMemoryFloats(
                                                          text.tokens, channels, config_.heads))
                                                    : Buffer());
      }
    }
    out->push_back(std::move(constant));
  }
}

Status UNetRun::Plan() {
  if (config_.aligned_channels > 0) {
    bottom_ = c_.workspace.Take(length_ / config_.compression() * config_.width(config_.depth()) *
                                BytesOf(c_.dtype));
  }
  summary_ = c_.workspace.TakeFloats(branches() * config_.base_dim);
  for (size_t level = 0; level < config_.depth(); ++level) {
    down_constants_.emplace_back();
    up_constants_.emplace_back();
    NewConstants(unet_.down_blocks[level], static_cast<int64_t>(level), &down_constants_.back());
    NewConstants(unet_.up_blocks[level], static_cast<int64_t>(level), &up_constants_.back());
  }
  N2M_RETURN_IF_ERROR(Prepare());
  return Step(nullptr, 0.0f, nullptr);
}

Status UNetRun::Prepare() {
  const Context f{c_.executor, c_.workspace, DType::kFloat32};
  if (config_.aligned_channels > 0) {
    const int64_t frames = length_ / config_.compression(), width = config_.width(config_.depth());
    const Buffer out = c_.workspace.TakeFloats(frames * width);
    N2M_RETURN_IF_ERROR(Linear(f, frames, config_.aligned_channels, width, aligned_,
                               unet_.aligned_fc, unet_.aligned_bias, out.data()));
    if (!c_.workspace.measuring()) Cast(c_.dtype, frames * width, out.floats(), bottom_.data());
  }
  const Buffer mean = c_.workspace.TakeFloats(config_.text_dim);
  for (int64_t b = 0; b < branches(); ++b) {
    const TextInput& text = texts_[static_cast<size_t>(b)];
    const bool heard = unet_.text_fc.data != nullptr && text.tokens > 0;
    float* out = c_.workspace.measuring() ? nullptr : summary_.floats() + b * config_.base_dim;
    if (!c_.workspace.measuring()) {
      std::fill_n(out, config_.base_dim, 0.0f);
      for (int64_t i = 0; i < config_.text_dim; ++i) {
        double sum = 0.0;
        for (int64_t l = 0; l < text.tokens; ++l)
          sum += static_cast<double>(text.states[l * config_.text_dim + i]);
        mean.floats()[i] =
            static_cast<float>(sum / static_cast<double>(std::max<int64_t>(text.tokens, 1)));
      }
    }
    if (heard) {
      N2M_RETURN_IF_ERROR(Linear(f, 1, config_.text_dim, config_.base_dim, mean.data(),
                                 unet_.text_fc, nullptr, out));
    }
  }
  int64_t time = length_;
  double rate = config_.clock_rate.value_or(1.0);
  for (size_t level = 0; level < config_.depth(); ++level) {
    time /= config_.strides[level];
    rate /= static_cast<double>(config_.strides[level]);
    const Buffer shown =
        c_.workspace.TakeFloats(config_.clock_rate ? branches() * time * kClockFeatures : 0);
    if (config_.clock_rate && !c_.workspace.measuring()) {
      for (int64_t b = 0; b < branches(); ++b) {
        Clock(time, static_cast<float>(rate), texts_[static_cast<size_t>(b)].beat,
              shown.floats() + b * time * kClockFeatures);
      }
    }
    for (auto* lists : {&down_constants_, &up_constants_}) {
      const auto& blocks =
          lists == &down_constants_ ? unet_.down_blocks[level] : unet_.up_blocks[level];
      for (size_t i = 0; i < blocks.size(); ++i) {
        N2M_RETURN_IF_ERROR(PrepareBlock(blocks[i], static_cast<int64_t>(level), shown.floats(),
                                         &(*lists)[level][i]));
      }
    }
  }
  return Status::Ok();
}

Status UNetRun::PrepareBlock(const UNet::Block& block, int64_t level, const float* shown,
                             Constant* constant) {
  const Context f{c_.executor, c_.workspace, DType::kFloat32};
  const int64_t channels = config_.width(static_cast<size_t>(level) + 1);
  if (config_.clock_rate) {
    int64_t time = length_;
    for (int64_t l = 0; l <= level; ++l) time /= config_.strides[static_cast<size_t>(l)];
    const int64_t rows = branches() * time;
    const Buffer out = c_.workspace.TakeFloats(rows * channels);
    N2M_RETURN_IF_ERROR(
        Linear(f, rows, kClockFeatures, channels, shown, block.clock, nullptr, out.data()));
    if (!c_.workspace.measuring())
      Cast(c_.dtype, rows * channels, out.floats(), constant->clock.data());
  }
  for (size_t b = 0; b < constant->memories.size(); ++b) {
    const TextInput& text = texts_[b];
    if (text.tokens == 0) continue;
    const Buffer k = c_.workspace.TakeFloats(text.tokens * channels),
                 v = c_.workspace.TakeFloats(text.tokens * channels);
    const UNet::Attention& a = *block.cross_attention;
    N2M_RETURN_IF_ERROR(
        Linear(f, text.tokens, config_.text_dim, channels, text.states, a.key, nullptr, k.data()));
    N2M_RETURN_IF_ERROR(Linear(f, text.tokens, config_.text_dim, channels, text.states, a.value,
                               nullptr, v.data()));
    PackMemory(f, text.tokens, channels, config_.heads, k.data(), v.data(),
               constant->memories[b].floats());
  }
  return Status::Ok();
}

}  // namespace n2m
