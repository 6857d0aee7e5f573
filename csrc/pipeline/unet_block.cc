// One block of a U-Net (Figure 5): FiLM, two convolutions, self- and cross-attention.
#include "pipeline/unet.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "noise2music/combine_film.h"
#include "noise2music/conv1d_block.h"
#include "pipeline/check.h"

namespace n2m {

Status UNetRun::Block(const UNet::Block& block, const Constant& constant, const float* emb,
                      Signal* x) {
  const int64_t n = branches() * x->time * x->channels;
  if (constant.clock) Add(c_, n, constant.clock.data(), x->data.data());
  CombineFilmShape film;
  film.B = branches();
  film.T = x->time;
  film.C = x->channels;
  film.E = config_.base_dim;
  film.G = config_.norm_groups;
  film.dtype = c_.dtype;
  Conv1dBlockShape conv;
  conv.batch = branches();
  conv.time = x->time;
  conv.channels = conv.out_channels = x->channels;
  conv.kernel = config_.kernel_size;
  conv.groups = conv.out_groups = config_.norm_groups;
  conv.dtype = c_.dtype;
  conv.weight_dtype = block.conv1.dtype;
  Conv1dBlockShape last = conv;
  last.out_groups = 0;
  last.residual_channels = x->channels;
  last.weight_dtype = block.conv2.dtype;
  const int threads = c_.executor.num_threads();
  const Buffer sums = c_.workspace.TakeFloats(2 * branches() * film.G),
               sums2 = c_.workspace.TakeFloats(2 * branches() * film.G);
  Signal h = NewSignal(x->time, x->channels), y = NewSignal(x->time, x->channels);
  {
    const Buffer scratch = c_.workspace.TakeFloats(
        std::max({CombineFilmFwdScratch(film), Conv1dBlockFwdScratch(conv, threads),
                  Conv1dBlockFwdScratch(last, threads)}));
    if (!c_.workspace.measuring()) {
      N2M_RETURN_IF_ERROR(CombineFilmFwd(film, x->data.data(), emb, block.film, block.film_bias,
                                         x->data.data(), sums.floats(), scratch.floats(),
                                         c_.executor));
      Conv1dBlockInputs first{
          x->data.data(),     block.conv1.data, block.conv1_bias, block.norm1_scale,
          block.norm1_offset, sums.floats(),    nullptr,          nullptr};
      N2M_RETURN_IF_ERROR(
          Conv1dBlockFwd(conv, first, h.data.data(), sums2.floats(), scratch.data(), c_.executor));
      Conv1dBlockInputs second{h.data.data(),     block.conv2.data,   block.conv2_bias,
                               block.norm2_scale, block.norm2_offset, sums2.floats(),
                               x->data.data(),    block.fc.data};
      N2M_RETURN_IF_ERROR(
          Conv1dBlockFwd(last, second, y.data.data(), nullptr, scratch.data(), c_.executor));
    }
  }
  h.data.Release();
  *x = std::move(y);
  if (block.self_attention) N2M_RETURN_IF_ERROR(SelfAttention(*block.self_attention, x));
  if (block.cross_attention)
    N2M_RETURN_IF_ERROR(CrossAttention(*block.cross_attention, constant.memories, x));
  return Status::Ok();
}

Status UNetRun::SelfAttention(const UNet::Attention& a, Signal* x) {
  const int64_t rows = branches() * x->time, d = x->channels / config_.heads;
  {
    Signal h = NewSignal(x->time, x->channels), q = NewSignal(x->time, x->channels);
    Signal k = NewSignal(x->time, x->channels), v = NewSignal(x->time, x->channels);
    const Buffer packed =
        c_.workspace.TakeFloats(AttentionMemoryFloats(x->time, x->channels, config_.heads));
    LayerNorm(c_, rows, x->channels, x->data.data(), a.norm_scale, a.norm_offset, h.data.data());
    N2M_RETURN_IF_ERROR(
        Linear(c_, rows, x->channels, x->channels, h.data.data(), a.query, nullptr, q.data.data()));
    N2M_RETURN_IF_ERROR(
        Linear(c_, rows, x->channels, x->channels, h.data.data(), a.key, nullptr, k.data.data()));
    N2M_RETURN_IF_ERROR(
        Linear(c_, rows, x->channels, x->channels, h.data.data(), a.value, nullptr, v.data.data()));
    for (int64_t b = 0; b < branches(); ++b) {
      PackMemory(c_, x->time, x->channels, config_.heads, Row(k, b), Row(v, b), packed.floats());
      Attend(c_, x->time, x->time, x->channels, config_.heads,
             1.0f / std::sqrt(static_cast<float>(d)), Row(q, b), packed.floats(), nullptr,
             Row(q, b));
    }
    N2M_RETURN_IF_ERROR(
        Linear(c_, rows, x->channels, x->channels, q.data.data(), a.out, nullptr, h.data.data()));
    Add(c_, rows * x->channels, h.data.data(), x->data.data());
  }
  return FeedForward(a, x);
}

// A branch whose text is dropped gets nothing but the feed-forward layer.
Status UNetRun::CrossAttention(const UNet::Attention& a, const std::vector<Buffer>& memories,
                               Signal* x) {
  const int64_t time = x->time, channels = x->channels, d = channels / config_.heads;
  for (int64_t b = 0; b < branches(); ++b) {
    const int64_t tokens = texts_[static_cast<size_t>(b)].tokens;
    if (tokens == 0) continue;
    const Buffer h = c_.workspace.Take(time * channels * BytesOf(c_.dtype)),
                 q = c_.workspace.Take(time * channels * BytesOf(c_.dtype));
    LayerNorm(c_, time, channels, Row(*x, b), a.norm_scale, a.norm_offset, h.data());
    N2M_RETURN_IF_ERROR(Linear(c_, time, channels, channels, h.data(), a.query, nullptr, q.data()));
    Attend(c_, time, tokens, channels, config_.heads, 1.0f / std::sqrt(static_cast<float>(d)),
           q.data(), memories[static_cast<size_t>(b)].floats(), nullptr, q.data());
    N2M_RETURN_IF_ERROR(Linear(c_, time, channels, channels, q.data(), a.out, nullptr, h.data()));
    Add(c_, time * channels, h.data(), Row(*x, b));
  }
  return FeedForward(a, x);
}

Status UNetRun::FeedForward(const UNet::Attention& a, Signal* x) {
  const int64_t rows = branches() * x->time, channels = x->channels;
  Signal h = NewSignal(x->time, channels), hidden = NewSignal(x->time, 2 * channels);
  LayerNorm(c_, rows, channels, x->data.data(), a.ff_scale, a.ff_offset, h.data.data());
  N2M_RETURN_IF_ERROR(Linear(c_, rows, channels, 2 * channels, h.data.data(), a.ff_in, a.ff_in_bias,
                             hidden.data.data()));
  Activate(c_, Activation::kSwish, rows * 2 * channels, nullptr, hidden.data.data());
  N2M_RETURN_IF_ERROR(Linear(c_, rows, 2 * channels, channels, hidden.data.data(), a.ff_out,
                             a.ff_out_bias, h.data.data()));
  Add(c_, rows * channels, h.data.data(), x->data.data());
  return Status::Ok();
}

}  // namespace n2m
