// The 1D U-Net of Figures 1 and 5 from the kernels of noise2music::core:
// python/noise2music/unet1d.py in C++.
//
// UNet holds the weights. UNetRun is a U-Net with all that does not change while a clip is sampled:
// length, text, condition. It computes what depends on these alone once (keys and values of the
// text, clock, aligned input), and every step in the memory that the first one planned.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/config.h"
#include "pipeline/ops.h"
#include "pipeline/weights.h"

namespace n2m {

class UNet {
 public:
  struct Attention {
    const float *norm_scale, *norm_offset, *ff_scale, *ff_offset, *ff_in_bias, *ff_out_bias;
    Matrix query, key, value, out, ff_in, ff_out;
  };
  struct Block {
    const float *film, *film_bias, *norm1_scale, *norm1_offset, *conv1_bias, *norm2_scale,
        *norm2_offset, *conv2_bias;
    Matrix conv1, conv2, fc, clock;
    std::optional<Attention> self_attention, cross_attention;
  };
  struct Conv {
    Matrix weight;
    const float* bias;
  };
  struct Film {
    const float *kernel, *bias;
  };

  // Takes its weights; the caller asks weights->Finish().
  void Load(const UNetConfig& config, Weights* weights);

  UNetConfig config;
  Matrix time_fc, text_fc, aligned_fc;
  const float *time_bias = nullptr, *aligned_bias = nullptr;
  Conv entry{}, exit{};
  std::vector<Conv> down, up;                              // one a depth
  std::vector<std::vector<Block>> down_blocks, up_blocks;  // by depth
  std::vector<Film> skip_film;                             // one a depth, or none
};

// What one branch of the network hears of a text. No states: the text is dropped.
struct TextInput {
  const float* states = nullptr;  // (tokens, text_dim)
  int64_t tokens = 0;
  float beat = 0.0f;  // beats a second that the text states, 0 where none
};

class UNetRun {
 public:
  // length: of x, a multiple of the compression. stacked (length, stacked_channels) and aligned
  // (length / compression, aligned_channels) as the config has them, float32. One branch a text,
  // all with the same x; a network without text has one branch whose text is not read.
  UNetRun(const UNet& unet, int64_t length, const float* stacked, const float* aligned,
          std::vector<TextInput> texts, const Context& context);

  // Takes what stays and measures a step. To be called before the workspace is reserved.
  Status Plan();
  // Computes what does not change. After the workspace was reserved.
  Status Prepare();
  // x (length, in_channels) and t in [0, 1] -> y (branches, length, in_channels), float32.
  Status Step(const float* x, float t, float* y);

 private:
  using Buffer = Workspace::Buffer;
  // An activation (branches, time, channels).
  struct Signal {
    Buffer data;
    int64_t time = 0, channels = 0;
  };
  // What stays of one block: its clock term for each branch, and its text's keys and values.
  struct Constant {
    Buffer clock;
    std::vector<Buffer> memories;
  };

  int64_t branches() const { return static_cast<int64_t>(texts_.size()); }
  Signal NewSignal(int64_t time, int64_t channels);
  void NewConstants(const std::vector<UNet::Block>& blocks, int64_t level,
                    std::vector<Constant>* out);
  Status PrepareBlock(const UNet::Block& block, int64_t level, const float* shown,
                      Constant* constant);
  Status Embed(float t, float* emb);
  Status Entry(const float* x, Signal* out);
  Status Convolve(const UNet::Conv& conv, int64_t kernel, int64_t stride, int64_t out,
                  const Signal& x, Signal* y);
  Status Block(const UNet::Block& block, const Constant& constant, const float* emb, Signal* x);
  Status SelfAttention(const UNet::Attention& a, Signal* x);
  Status CrossAttention(const UNet::Attention& a, const std::vector<Buffer>& memories, Signal* x);
  Status FeedForward(const UNet::Attention& a, Signal* x);
  void* Row(const Signal& x, int64_t branch) const;

  const UNet& unet_;
  const UNetConfig& config_;
  const int64_t length_;
  const float* const stacked_;
  const float* const aligned_;
  const std::vector<TextInput> texts_;
  const Context c_;

  Buffer bottom_;   // the aligned input, after its fully connected layer
  Buffer summary_;  // (branches, base_dim): the mean of the text, after its fully connected layer
  std::vector<std::vector<Constant>> down_constants_, up_constants_;
};

}  // namespace n2m
