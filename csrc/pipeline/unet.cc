// One step of a U-Net (Figure 1): embedding, entry, down, up, exit.
#include "pipeline/unet.h"

#include <algorithm>
#include <utility>

#include "kernels/common/simd.h"
#include "noise2music/combine_film.h"
#include "noise2music/conv1d_block.h"
#include "pipeline/check.h"
#include "pipeline/unet_features.h"

namespace n2m {

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

}  // namespace n2m
