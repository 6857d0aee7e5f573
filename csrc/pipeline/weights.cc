#include "pipeline/weights.h"

#include <cstring>

namespace n2m {
namespace {

template <class T>
T LoadBytes(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Finite halves only: the exponent moves to its new place, and a product by 2^112 mends its bias.
float FromHalf(uint16_t h) {
  const float magnitude =
      FromBits(static_cast<uint32_t>(h & 0x7FFFu) << 13) * 5.192296858534828e33f;
  return (h & 0x8000u) != 0 ? -magnitude : magnitude;
}

// Whether no element has an exponent of ones, which marks NaN and infinity. Without a branch, so
// that it is vectorised.
template <class T>
bool Finite(const char* data, int64_t n, T exponent) {
  T bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad = static_cast<T>(bad |
                         static_cast<T>((LoadBytes<T>(data + i * static_cast<int64_t>(sizeof(T))) &
                                         exponent) == exponent));
  }
  return bad == 0;
}

bool Finite(const StoredTensor& t) {
  if (t.dtype == "I8") return true;
  if (t.dtype == "F32") return Finite<uint32_t>(t.data, t.elements(), 0x7F800000u);
  return Finite<uint16_t>(t.data, t.elements(),
                          t.dtype == "F16" ? uint16_t{0x7C00} : uint16_t{0x7F80});
}

std::string Shown(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

bool Aligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

}  // namespace

Status Weights::Open(const std::string& path) {
  path_ = path;
  return Safetensors::Open(path, &file_);
}

Status Weights::Config(std::string* out) const {
  const std::string* config = file_.Metadata("config");
  if (config == nullptr) {
    return Status::InvalidArgument("n2m.weights: " + path_ +
                                   " must be made by noise2music, got no config inside");
  }
  *out = *config;
  return Status::Ok();
}

void Weights::Note(const std::string& problem) {
  if (problem_.empty()) problem_ = problem;
}

const float* Weights::Converted(const StoredTensor& tensor) {
  const int64_t n = tensor.elements();
  converted_.push_back(std::make_unique<float[]>(static_cast<size_t>(n)));
  float* out = converted_.back().get();
  if (tensor.dtype == "F32") {
    std::memcpy(out, tensor.data, tensor.bytes);
  } else if (tensor.dtype == "F16") {
    for (int64_t i = 0; i < n; ++i) out[i] = FromHalf(LoadBytes<uint16_t>(tensor.data + 2 * i));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = FromBits(static_cast<uint32_t>(LoadBytes<uint16_t>(tensor.data + 2 * i)) << 16);
    }
  }
  return out;
}

const float* Weights::Dequantized(const std::string& name, const StoredTensor& tensor) {
  const std::string scale_name = name + ".int8_scale";
  const auto found = file_.tensors().find(scale_name);
  if (found == file_.tensors().end()) {
    Note("missing " + scale_name + ", as " + name + " is int8");
    return nullptr;
  }
  const StoredTensor& scale = found->second;
  taken_.insert(scale_name);
  const int64_t channels = tensor.shape.empty() ? 0 : tensor.shape.back(), n = tensor.elements();
  if (scale.dtype != "F32" || scale.shape != std::vector<int64_t>{channels} || !Finite(scale)) {
    Note(scale_name + " must be " + std::to_string(channels) + " finite numbers of F32");
    return nullptr;
  }
  converted_.push_back(std::make_unique<float[]>(static_cast<size_t>(n)));
  float* out = converted_.back().get();
  for (int64_t i = 0; i < n; i += channels) {
    for (int64_t d = 0; d < channels; ++d) {
      out[i + d] = static_cast<float>(LoadBytes<int8_t>(tensor.data + i + d)) *
                   LoadBytes<float>(scale.data + d * static_cast<int64_t>(sizeof(float)));
    }
  }
  return out;
}

Matrix Weights::Take(const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) {
    Note("missing " + name);
    return {};
  }
  const StoredTensor& tensor = found->second;
  taken_.insert(name);
  if (tensor.shape != shape) {
    Note(name + " must be " + Shown(shape) + ", got " + Shown(tensor.shape));
    return {};
  }
  if (!Finite(tensor)) {
    Note(name + " must be finite, got NaN or Inf");
    return {};
  }
  parameters_ += tensor.elements();
  if (tensor.dtype == "F32" && Aligned(tensor.data, alignof(float)))
    return {tensor.data, DType::kFloat32};
  if (tensor.dtype == "BF16" && Aligned(tensor.data, alignof(uint16_t)))
    return {tensor.data, DType::kBFloat16};
  if (tensor.dtype == "I8") return {Dequantized(name, tensor), DType::kFloat32};
  return {Converted(tensor), DType::kFloat32};
}

const float* Weights::Floats(const std::string& name, const std::vector<int64_t>& shape) {
  const Matrix matrix = Take(name, shape);
  if (matrix.data == nullptr || matrix.dtype == DType::kFloat32)
    return static_cast<const float*>(matrix.data);
  return Converted(file_.tensors().at(name));
}

void Weights::TakePair(const std::string& name, const std::vector<int64_t>& shape, Matrix* matrix,
                       const std::string& other, const std::vector<int64_t>& other_shape,
                       Matrix* other_matrix) {
  *matrix = Take(name, shape);
  *other_matrix = Take(other, other_shape);
  if (matrix->data == nullptr || other_matrix->data == nullptr ||
      matrix->dtype == other_matrix->dtype)
    return;
  if (matrix->dtype != DType::kFloat32)
    *matrix = {Converted(file_.tensors().at(name)), DType::kFloat32};
  if (other_matrix->dtype != DType::kFloat32)
    *other_matrix = {Converted(file_.tensors().at(other)), DType::kFloat32};
}

Status Weights::Finish() const {
  std::string problem = problem_;
  for (const auto& tensor : file_.tensors()) {
    if (problem.empty() && taken_.count(tensor.first) == 0) problem = "extra " + tensor.first;
  }
  if (problem.empty()) return Status::Ok();
  return Status::InvalidArgument("n2m.weights: " + path_ + " does not fit the model: " + problem);
}

}  // namespace n2m
