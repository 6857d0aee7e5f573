// Memory for one call of a handler on the CPU. XLA's ScratchAllocator has none to give there
// (jaxlib 0.10 and 0.11).
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "noise2music/status.h"

namespace n2m::xla_ffi {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { Pool::Get().Give(std::move(block_)); }

  // At least so many floats, of any value, on a cache line. `op` reads "n2m.<op>".
  Status Allocate(int64_t floats, const char* op) {
    if (floats <= 0) return Status::Ok();
    block_ = Pool::Get().Take(floats);
    if (block_.data != nullptr) return Status::Ok();
    return Status::InvalidArgument(std::string(op) +
                                   ": scratch memory must be available, got none of " +
                                   std::to_string(floats * 4) + " bytes");
  }
  float* data() const { return block_.data.get(); }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  struct Block {
    std::unique_ptr<float[], Free> data;
    int64_t floats = 0;
  };

  // What calls have given back, for the next: a handler runs on any of XLA's threads, and malloc
  // would keep a block for each of them. As many blocks as there were calls at once, small ones.
  class Pool {
   public:
    static Pool& Get() {
      static Pool* pool = new Pool;  // never destroyed: a thread may outlive main
      return *pool;
    }

    Block Take(int64_t floats) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto least = free_.lower_bound(floats);
        if (least != free_.end()) {
          Block block = std::move(least->second);
          free_.erase(least);
          return block;
        }
        // The new one takes the place of the largest, if it will be kept.
        if (floats <= kMostFloats && !free_.empty()) free_.erase(std::prev(free_.end()));
      }
      Block block;
      block.data.reset(new (std::align_val_t(64), std::nothrow) float[static_cast<size_t>(floats)]);
      block.floats = block.data == nullptr ? 0 : floats;
      return block;
    }

    void Give(Block block) {
      if (block.data == nullptr || block.floats > kMostFloats) return;
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.emplace(block.floats, std::move(block));
    }

   private:
    static constexpr int64_t kMostFloats = 4 << 20;
    std::mutex mutex_;
    std::multimap<int64_t, Block> free_;  // by their floats
  };

  Block block_;
};

}  // namespace n2m::xla_ffi
