#include "pipeline/unet.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/common/simd.h"
#include "noise2music/combine_film.h"
#include "noise2music/conv1d_block.h"
#include "pipeline/check.h"
#include "pipeline/unet_features.h"

namespace n2m {
namespace {

// `n` float32 values as activations.
void Cast(DType dtype, int64_t n, const float* from, void* to) {
  if (dtype == DType::kFloat32) {
    std::copy_n(from, n, static_cast<float*>(to));
    return;
  }
  for (int64_t i = 0; i < n; ++i) simd::StoreOne(static_cast<simd::BFloat16*>(to) + i, from[i]);
}

}  // namespace

UNetRun::UNetRun(const UNet& unet, int64_t length, const float* stacked, const float* aligned,
                 std::vector<TextInput> texts, const Context& context)
    : unet_(unet),
      config_(unet.config),
      length_(length),
      stacked_(stacked),
      aligned_(aligned),
      texts_(std::move(texts)),
      c_(context) {}

void* UNetRun::Row(const Signal& x, int64_t branch) const {
  char* data = static_cast<char*>(x.data.data());
  return data == nullptr ? nullptr : data + branch * x.time * x.channels * BytesOf(c_.dtype);
}

UNetRun::Signal UNetRun::NewSignal(int64_t time, int64_t channels) {
  return {c_.workspace.Take(branches() * time * channels * BytesOf(c_.dtype)), time, channels};
}

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

Status UNetRun::Step(const float* x, float t, float* y) {
  const Buffer emb = c_.workspace.TakeFloats(branches() * config_.base_dim);
  N2M_RETURN_IF_ERROR(Embed(t, emb.floats()));
  Signal h;
  N2M_RETURN_IF_ERROR(Entry(x, &h));
  std::vector<Signal> skips;
  for (size_t level = 0; level < config_.depth(); ++level) {
    skips.push_back(std::move(h));
    N2M_RETURN_IF_ERROR(Convolve(unet_.down[level], config_.kernel_size, config_.strides[level],
                                 config_.width(level + 1), skips.back(), &h));
    for (size_t i = 0; i < unet_.down_blocks[level].size(); ++i) {
      N2M_RETURN_IF_ERROR(
          Block(unet_.down_blocks[level][i], down_constants_[level][i], emb.floats(), &h));
    }
  }
  if (bottom_) {
    for (int64_t b = 0; b < branches(); ++b)
      Add(c_, h.time * h.channels, bottom_.data(), Row(h, b));
  }
  for (size_t level = config_.depth(); level-- > 0;) {
    for (size_t i = 0; i < unet_.up_blocks[level].size(); ++i) {
      N2M_RETURN_IF_ERROR(
          Block(unet_.up_blocks[level][i], up_constants_[level][i], emb.floats(), &h));
    }
    const int64_t stride = config_.strides[level], above = config_.width(level);
    Signal wide;
    N2M_RETURN_IF_ERROR(
        Convolve(unet_.up[level], config_.kernel_size, 1, stride * above, h, &wide));
    h = std::move(wide);
    h.time *= stride;  // depth to time: the same numbers in the same order
    h.channels = above;
    Signal skip = std::move(skips[level]);
    if (config_.skip_film) {
      CombineFilmShape shape;
      shape.B = branches();
      shape.T = skip.time;
      shape.C = above;
      shape.E = config_.base_dim;
      shape.dtype = c_.dtype;
      const Buffer scratch = c_.workspace.TakeFloats(CombineFilmFwdScratch(shape));
      const UNet::Film& film = unet_.skip_film[level];
      if (!c_.workspace.measuring()) {
        N2M_RETURN_IF_ERROR(CombineFilmFwd(shape, skip.data.data(), emb.floats(), film.kernel,
                                           film.bias, skip.data.data(), nullptr, scratch.floats(),
                                           c_.executor));
      }
    }
    Add(c_, branches() * h.time * h.channels, skip.data.data(), h.data.data());
  }
  Signal out;
  N2M_RETURN_IF_ERROR(Convolve(unet_.exit, 3, 1, config_.in_channels, h, &out));
  if (c_.workspace.measuring()) return Status::Ok();
  const int64_t n = branches() * length_ * config_.in_channels;
  if (c_.dtype == DType::kFloat32) {
    std::copy_n(out.data.floats(), n, y);
  } else {
    const auto* from = static_cast<const simd::BFloat16*>(out.data.data());
    for (int64_t i = 0; i < n; ++i) y[i] = simd::LoadOne(from + i);
  }
  return Status::Ok();
}

// emb = swish(positions(t) W + b + summary of the text), a row a branch.
Status UNetRun::Embed(float t, float* emb) {
  const Context f{c_.executor, c_.workspace, DType::kFloat32};
  const int64_t base = config_.base_dim;
  const Buffer positions = c_.workspace.TakeFloats(kTimeFeatures),
               row = c_.workspace.TakeFloats(base);
  if (!c_.workspace.measuring()) TimePositions(t, positions.floats());
  N2M_RETURN_IF_ERROR(Linear(f, 1, kTimeFeatures, base, positions.data(), unet_.time_fc,
                             unet_.time_bias, row.data()));
  if (c_.workspace.measuring()) return Status::Ok();
  for (int64_t b = 0; b < branches(); ++b) {
    for (int64_t i = 0; i < base; ++i)
      emb[b * base + i] = row.floats()[i] + summary_.floats()[b * base + i];
  }
  Activate(f, Activation::kSwish, branches() * base, nullptr, emb);
  return Status::Ok();
}

// The branches hear the same x, so the entry is computed once and copied.
Status UNetRun::Entry(const float* x, Signal* out) {
  const int64_t in = config_.in_channels, stacked = config_.stacked_channels,
                channels = in + stacked;
  *out = NewSignal(length_, config_.base_dim);
  const Buffer joined = c_.workspace.Take(length_ * channels * BytesOf(c_.dtype));
  Conv1dBlockShape shape;
  shape.batch = 1;
  shape.time = length_;
  shape.channels = channels;
  shape.kernel = 3;
  shape.out_channels = config_.base_dim;
  shape.dtype = c_.dtype;
  shape.weight_dtype = unet_.entry.weight.dtype;
  const Buffer scratch =
      c_.workspace.TakeFloats(Conv1dBlockFwdScratch(shape, c_.executor.num_threads()));
  if (c_.workspace.measuring()) return Status::Ok();
  ParallelFor(c_.executor, length_, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      char* row = static_cast<char*>(joined.data()) + i * channels * BytesOf(c_.dtype);
      Cast(c_.dtype, in, x + i * in, row);
      if (stacked > 0)
        Cast(c_.dtype, stacked, stacked_ + i * stacked, row + in * BytesOf(c_.dtype));
    }
  });
  Conv1dBlockInputs inputs;
  inputs.x = joined.data();
  inputs.weight = unet_.entry.weight.data;
  inputs.bias = unet_.entry.bias;
  N2M_RETURN_IF_ERROR(
      Conv1dBlockFwd(shape, inputs, out->data.data(), nullptr, scratch.data(), c_.executor));
  const int64_t bytes = length_ * config_.base_dim * BytesOf(c_.dtype);
  for (int64_t b = 1; b < branches(); ++b)
    std::copy_n(static_cast<char*>(out->data.data()), bytes, static_cast<char*>(Row(*out, b)));
  return Status::Ok();
}

Status UNetRun::Convolve(const UNet::Conv& conv, int64_t kernel, int64_t stride, int64_t out,
                         const Signal& x, Signal* y) {
  Conv1dBlockShape shape;
  shape.batch = branches();
  shape.time = x.time;
  shape.channels = x.channels;
  shape.kernel = kernel;
  shape.out_channels = out;
  shape.stride = stride;
  shape.dtype = c_.dtype;
  shape.weight_dtype = conv.weight.dtype;
  *y = NewSignal(Conv1dBlockOutTime(shape), out);
  const Buffer scratch =
      c_.workspace.TakeFloats(Conv1dBlockFwdScratch(shape, c_.executor.num_threads()));
  if (c_.workspace.measuring()) return Status::Ok();
  Conv1dBlockInputs inputs;
  inputs.x = x.data.data();
  inputs.weight = conv.weight.data;
  inputs.bias = conv.bias;
  return Conv1dBlockFwd(shape, inputs, y->data.data(), nullptr, scratch.data(), c_.executor);
}

// Figure 5.
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
