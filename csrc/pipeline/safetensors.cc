#include "pipeline/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "pipeline/check.h"
#include "pipeline/json.h"
#include "runtime/sizes.h"

namespace n2m {
namespace {

constexpr size_t kLongestHeader = 100'000'000;  // what the format allows

Status Fail(const std::string& file, const std::string& rest) {
  return Status::InvalidArgument("n2m.weights: " + file + ": " + rest);
}

// Bytes an element, 0 for a dtype that is not read.
size_t ElementBytes(const std::string& dtype) {
  if (dtype == "F16" || dtype == "BF16") return 2;
  if (dtype == "I8") return 1;
  return dtype == "F32" ? 4 : 0;
}

// The numbers of a list of whole numbers from 0 on; false for anything else.
bool Counts(const Json* list, std::vector<int64_t>* out) {
  if (list == nullptr || !list->is(Json::Kind::kArray)) return false;
  for (const Json& item : list->items()) {
    if (!item.is_integer() || item.integer() < 0) return false;
    out->push_back(item.integer());
  }
  return true;
}

bool Fits(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) {
    if (size != 0 && product > kMostElements / size) return false;
    product *= size;
  }
  return true;
}

}  // namespace

Status MappedFile::Open(const std::string& path, std::shared_ptr<const MappedFile>* out) {
  const auto failed = [&] {
    return Status::InvalidArgument("n2m.weights: " + path +
                                   " cannot be read: " + std::strerror(errno));
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return failed();
  struct stat info;
  if (fstat(file, &info) != 0 || (!S_ISREG(info.st_mode) && (errno = EINVAL))) {
    const Status status = failed();
    close(file);
    return status;
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* data = nullptr;
  if (size > 0) {
    data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) {
      const Status status = failed();
      close(file);
      return status;
    }
  }
  close(file);
  out->reset(new MappedFile(data, size));
  return Status::Ok();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

int64_t StoredTensor::elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

Status Safetensors::Open(const std::string& path, Safetensors* out) {
  std::shared_ptr<const MappedFile> file;
  N2M_RETURN_IF_ERROR(MappedFile::Open(path, &file));
  N2M_RETURN_IF_ERROR(Read(file->bytes(), path, out));
  out->file_ = std::move(file);
  return Status::Ok();
}

Status Safetensors::Read(std::string_view bytes, const std::string& name, Safetensors* out) {
  *out = Safetensors();
  if (bytes.size() < 8)
    return Fail(name, "must be a safetensors file, got " + std::to_string(bytes.size()) + " bytes");
  uint64_t length = 0;  // little-endian
  for (size_t i = 0; i < 8; ++i)
    length |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  if (length > kLongestHeader || length > bytes.size() - 8) {
    return Fail(name, "its header must fit in the file, got a header of " + std::to_string(length) +
                          " bytes in a file of " + std::to_string(bytes.size()) +
                          ": truncated, or no safetensors file");
  }
  Json header;
  N2M_RETURN_IF_ERROR(
      Json::Parse(bytes.substr(8, static_cast<size_t>(length)), name + ": its header", &header));
  if (!header.is(Json::Kind::kObject)) return Fail(name, "its header must be an object");
  const std::string_view data = bytes.substr(8 + static_cast<size_t>(length));

  std::vector<std::pair<size_t, std::pair<size_t, const std::string*>>> spans;  // begin, end, name
  for (const Json::Member& member : header.members()) {
    if (member.first == "__metadata__") {
      for (const Json::Member& entry : member.second.members()) {
        if (!entry.second.is(Json::Kind::kString))
          return Fail(name, "metadata " + entry.first + " must be a string");
        out->metadata_[entry.first] = entry.second.string();
      }
      continue;
    }
    const auto bad = [&](const std::string& rule) {
      return Fail(name, "tensor " + member.first + ": " + rule);
    };
    const Json* dtype = member.second.Find("dtype");
    StoredTensor tensor;
    std::vector<int64_t> offsets;
    if (dtype == nullptr || !dtype->is(Json::Kind::kString)) return bad("dtype must be a string");
    tensor.dtype = dtype->string();
    const size_t element = ElementBytes(tensor.dtype);
    if (element == 0) return bad("dtype must be F16, BF16, F32 or I8, got " + tensor.dtype);
    if (!Counts(member.second.Find("shape"), &tensor.shape) || !Fits(tensor.shape)) {
      return bad("shape must be a list of sizes whose product can be addressed");
    }
    if (!Counts(member.second.Find("data_offsets"), &offsets) || offsets.size() != 2) {
      return bad("data_offsets must be two whole numbers");
    }
    const uint64_t begin = static_cast<uint64_t>(offsets[0]),
                   end = static_cast<uint64_t>(offsets[1]);
    if (begin > end || end > data.size()) {
      return bad("its bytes must lie in the file, got " + std::to_string(begin) + " to " +
                 std::to_string(end) + " of " + std::to_string(data.size()) +
                 ": the file is truncated or corrupt");
    }
    tensor.bytes = static_cast<size_t>(end - begin);
    if (static_cast<uint64_t>(tensor.elements()) * element != tensor.bytes) {
      return bad("its shape must fit its bytes, got " + std::to_string(tensor.elements()) +
                 " elements of " + tensor.dtype + " in " + std::to_string(tensor.bytes) + " bytes");
    }
    tensor.data = data.data() + begin;
    const auto placed = out->tensors_.emplace(member.first, std::move(tensor));
    spans.push_back({static_cast<size_t>(begin), {static_cast<size_t>(end), &placed.first->first}});
  }
  std::sort(spans.begin(), spans.end());
  size_t at = 0;
  for (const auto& span : spans) {
    if (span.first < at)
      return Fail(
          name, "tensor " + *span.second.second + ": its bytes must not overlap another tensor's");
    if (span.first > at)
      return Fail(name,
                  "tensor " + *span.second.second + ": its bytes must follow the tensor before it");
    at = span.second.first;
  }
  if (at != data.size()) {
    return Fail(name, "must end with its last tensor, got " + std::to_string(data.size() - at) +
                          " bytes more");
  }
  return Status::Ok();
}

const std::string* Safetensors::Metadata(const std::string& key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

}  // namespace n2m
