// Memory of a computation that is repeated: planned once, then used again by every step.
//
// A computation takes buffers and gives them back as it goes. Run once while `measuring`, it
// computes nothing, and the workspace notes the most that was in use at a time; Reserve allocates
// that, and every later run is given the same places. Buffers are aligned to 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

class Workspace {
 public:
  // A buffer, given back when it goes out of scope.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
      Release();
      owner_ = std::exchange(other.owner_, nullptr);
      offset_ = other.offset_;
      return *this;
    }
    ~Buffer() { Release(); }
    void Release() {
      if (owner_ != nullptr) std::exchange(owner_, nullptr)->Give(offset_);
    }
    void* data() const { return owner_ == nullptr ? nullptr : owner_->At(offset_); }
    float* floats() const { return static_cast<float*>(data()); }
    explicit operator bool() const { return owner_ != nullptr; }

   private:
    friend class Workspace;
    Buffer(Workspace* owner, size_t offset) : owner_(owner), offset_(offset) {}
    Workspace* owner_ = nullptr;
    size_t offset_ = 0;
  };

  // Nothing is allocated yet: pointers are null and nothing may be computed.
  bool measuring() const { return memory_ == nullptr; }
  size_t bytes() const { return most_; }

  Buffer Take(int64_t bytes) {
    const size_t size =
        (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
    // The first gap that is large enough.
    size_t offset = 0;
    auto place = taken_.begin();
    for (; place != taken_.end() && place->offset - offset < size; ++place)
      offset = place->offset + place->size;
    taken_.insert(place, {offset, size});
    if (offset + size > most_) most_ = offset + size;
    return Buffer(this, offset);
  }
  Buffer TakeFloats(int64_t floats) { return Take(floats * static_cast<int64_t>(sizeof(float))); }

  Status Reserve() {
    memory_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, most_ + kAlignment)));
    if (memory_ == nullptr) {
      return Status::InvalidArgument("n2m.pipeline: " + std::to_string(most_ >> 20) +
                                     " MiB of memory must be free");
    }
    return Status::Ok();
  }

 private:
  static constexpr size_t kAlignment = 64;
  struct Span {
    size_t offset, size;
  };
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };

  void* At(size_t offset) const { return memory_ == nullptr ? nullptr : memory_.get() + offset; }
  void Give(size_t offset) {
    for (auto place = taken_.begin(); place != taken_.end(); ++place) {
      if (place->offset == offset) {
        taken_.erase(place);
        return;
      }
    }
  }

  std::vector<Span> taken_;  // sorted
  size_t most_ = 0;
  std::unique_ptr<char, Free> memory_;
};

}  // namespace n2m
