// A safetensors file: an eight-byte length, a JSON header, then the tensors' bytes. The file is
// mapped, not read; everything in the header is checked before anybody sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

// A file in memory, read-only, for as long as it lives.
class MappedFile {
 public:
  static Status Open(const std::string& path, std::shared_ptr<const MappedFile>* out);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}
  void* data_;
  size_t size_;
};

// A tensor where it lies; `data` may be misaligned.
struct StoredTensor {
  std::string dtype;  // "F16", "BF16", "F32", "I8"
  std::vector<int64_t> shape;
  const char* data = nullptr;
  size_t bytes = 0;

  int64_t elements() const;
};

class Safetensors {
 public:
  // Maps and checks a file. A message names the tensor that is wrong: a header that is truncated or
  // no JSON, a dtype that no weight has, offsets beyond the file, that overlap or leave a
  // gap, or that do not fit the shape.
  static Status Open(const std::string& path, Safetensors* out);
  // The same for bytes that the caller keeps. `name` is for messages.
  static Status Read(std::string_view bytes, const std::string& name, Safetensors* out);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  // The strings of __metadata__; null where there is none of this name.
  const std::string* Metadata(const std::string& key) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace n2m
