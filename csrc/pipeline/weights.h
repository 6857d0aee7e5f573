// The weights of one file, taken by name as a network is built. What is stored as the kernels want
// it is used where it is mapped; the rest is converted once.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "noise2music/status.h"
#include "noise2music/types.h"
#include "pipeline/safetensors.h"

namespace n2m {

// A weight of a product: float32 or bfloat16.
struct Matrix {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
};

class Weights {
 public:
  Status Open(const std::string& path);

  // The text under "config" in the file's metadata.
  Status Config(std::string* out) const;

  // A tensor of this shape. What is missing, misshapen or not finite is noted for Finish, and null
  // is returned.
  Matrix Take(const std::string& name, const std::vector<int64_t>& shape);
  // Two matrices that one kernel reads: of one dtype.
  void TakePair(const std::string& name, const std::vector<int64_t>& shape, Matrix* matrix,
                const std::string& other, const std::vector<int64_t>& other_shape,
                Matrix* other_matrix);
  // The same as Take, always float32.
  const float* Floats(const std::string& name, const std::vector<int64_t>& shape);

  // Ok if every tensor of the file was taken and fitted; else the first problem, by the tensor's
  // name.
  Status Finish() const;

  int64_t parameters() const { return parameters_; }

 private:
  const float* Converted(const StoredTensor& tensor);
  // int8 weights by the scales of their output channels (python/noise2music/quantize.py); null
  // where those are missing or misshapen.
  const float* Dequantized(const std::string& name, const StoredTensor& tensor);
  void Note(const std::string& problem);

  std::string path_;
  Safetensors file_;
  std::vector<std::unique_ptr<float[]>> converted_;
  std::set<std::string> taken_;
  std::string problem_;
  int64_t parameters_ = 0;
};

}  // namespace n2m
