#include "pipeline/t5.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "pipeline/check.h"
#include "pipeline/ops.h"

namespace n2m {

int64_t RelativePositionBucket(int64_t relative, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  const int64_t distance = std::abs(relative), sign = relative > 0 ? half : 0;
  if (distance < exact) return sign + distance;
  // In float32, as the released models did: a distance on a border stays in the bucket it was
  // trained in.
  const float ratio = static_cast<float>(distance) / static_cast<float>(exact);
  const float whole =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const float scaled = std::log(ratio) / whole * static_cast<float>(half - exact);
  return sign + std::min(exact + static_cast<int64_t>(std::max(scaled, 0.0f)), half - 1);
}

void T5Encoder::Load(const T5Config& config, Weights* w) {
  config_ = config;
  const int64_t d = config.d_model, inner = config.num_heads * config.d_kv, ff = config.d_ff;
  embedding_ = w->Floats("embedding", {config.vocab_size, d});
  position_bias_ = w->Floats("position_bias", {config.buckets, config.num_heads});
  final_norm_ = w->Floats("final_norm", {d});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string at = "blocks." + std::to_string(i) + ".";
    Block b{};
    b.attention_norm = w->Floats(at + "attention_norm", {d});
    b.feed_forward_norm = w->Floats(at + "feed_forward_norm", {d});
    b.q = w->Take(at + "q", {d, inner});
    b.k = w->Take(at + "k", {d, inner});
    b.v = w->Take(at + "v", {d, inner});
    b.o = w->Take(at + "o", {inner, d});
    b.wi = w->Take(at + "wi", {d, ff});
    if (config.gated_gelu) b.wi_linear = w->Take(at + "wi_linear", {d, ff});
    b.wo = w->Take(at + "wo", {ff, d});
    blocks_.push_back(b);
  }
}

Status T5Encoder::Run(const std::vector<int32_t>& tokens, const Context& c, float* x) const {
  const int64_t n = static_cast<int64_t>(tokens.size()), d = config_.d_model,
                heads = config_.num_heads;
  const int64_t inner = heads * config_.d_kv, ff = config_.d_ff;
  const float epsilon = static_cast<float>(config_.epsilon);
  const Workspace::Buffer bias = c.workspace.TakeFloats(heads * n * n),
                          h = c.workspace.TakeFloats(n * d);
  const Workspace::Buffer q = c.workspace.TakeFloats(n * inner),
                          k = c.workspace.TakeFloats(n * inner);
  const Workspace::Buffer v = c.workspace.TakeFloats(n * inner);
  const Workspace::Buffer packed = c.workspace.TakeFloats(AttentionMemoryFloats(n, inner, heads));
  const Workspace::Buffer hidden = c.workspace.TakeFloats(n * ff),
                          gate = c.workspace.TakeFloats(n * ff);
  if (!c.workspace.measuring()) {
    for (int64_t i = 0; i < n; ++i) {
      std::copy_n(embedding_ + tokens[static_cast<size_t>(i)] * d, d, x + i * d);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t bucket = RelativePositionBucket(j - i, config_.buckets, config_.max_distance);
        for (int64_t head = 0; head < heads; ++head) {
          bias.floats()[(head * n + i) * n + j] = position_bias_[bucket * heads + head];
        }
      }
    }
  }
  for (const Block& b : blocks_) {
    RmsNorm(c, n, d, epsilon, x, b.attention_norm, h.data());
    N2M_RETURN_IF_ERROR(Linear(c, n, d, inner, h.data(), b.q, nullptr, q.data()));
    N2M_RETURN_IF_ERROR(Linear(c, n, d, inner, h.data(), b.k, nullptr, k.data()));
    N2M_RETURN_IF_ERROR(Linear(c, n, d, inner, h.data(), b.v, nullptr, v.data()));
    PackMemory(c, n, inner, heads, k.data(), v.data(), packed.floats());
    Attend(c, n, n, inner, heads, 1.0f, q.data(), packed.floats(), bias.floats(), q.data());
    N2M_RETURN_IF_ERROR(Linear(c, n, inner, d, q.data(), b.o, nullptr, h.data()));
    Add(c, n * d, h.data(), x);
    RmsNorm(c, n, d, epsilon, x, b.feed_forward_norm, h.data());
    N2M_RETURN_IF_ERROR(Linear(c, n, d, ff, h.data(), b.wi, nullptr, hidden.data()));
    if (config_.gated_gelu) {
      N2M_RETURN_IF_ERROR(Linear(c, n, d, ff, h.data(), b.wi_linear, nullptr, gate.data()));
      Activate(c, Activation::kGelu, n * ff, gate.data(), hidden.data());
    } else {
      Activate(c, Activation::kRelu, n * ff, nullptr, hidden.data());
    }
    N2M_RETURN_IF_ERROR(Linear(c, n, ff, d, hidden.data(), b.wo, nullptr, h.data()));
    Add(c, n * d, h.data(), x);
  }
  RmsNorm(c, n, d, epsilon, x, final_norm_, x);
  return Status::Ok();
}

Status T5Encoder::Encode(const std::vector<int32_t>& tokens, Executor& executor,
                         std::vector<float>* states) const {
  for (const int32_t id : tokens) {
    if (id < 0 || id >= config_.vocab_size) {
      return Status::InvalidArgument(
          "n2m.t5: tokens must be below vocab_size = " + std::to_string(config_.vocab_size) +
          ", got " + std::to_string(id));
    }
  }
  Workspace workspace;
  const Context c{executor, workspace, DType::kFloat32};
  states->resize(tokens.size() * static_cast<size_t>(config_.d_model));
  N2M_RETURN_IF_ERROR(Run(tokens, c, nullptr));
  N2M_RETURN_IF_ERROR(workspace.Reserve());
  return Run(tokens, c, states->data());
}

}  // namespace n2m
