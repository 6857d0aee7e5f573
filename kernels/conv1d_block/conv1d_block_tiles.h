// How conv1d_block cuts its tensors: tiles of rows, panels of columns, chunks of the reduction, and
// the scratch each step takes. Everything here depends on shapes and the instruction set only,
// never on the number of threads; and everything that decides the order of additions inside a clip
// depends on the shape of one clip only, so a clip's result is the same bits in any batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "kernels/conv1d_block/conv1d_block_simd.h"

namespace n2m::conv1d_block {

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }
inline int64_t FloorDiv(int64_t a, int64_t b) { return a >= 0 ? a / b : -CeilDiv(-a, b); }

// Per-channel arrays are padded so that a vector may be read at any channel.
inline int64_t Padded(int64_t channels) { return RoundUp(channels, 16) + 32; }

// Floats from one row of a tile to the next: whole vectors, and never a multiple of 1 KiB, which
// would put the rows of a register block in the same sets of the L1 cache.
inline int64_t TileStride(int64_t channels) {
  const int64_t stride = RoundUp(channels, 16);
  return stride % 256 == 0 ? stride + 16 : stride;
}

inline int64_t Lanes() {
  switch (ActiveIsa()) {
    case Isa::kAmx:
    case Isa::kAvx512:
      return 16;
    case Isa::kAvx2:
      return 8;
    default:
      return 4;
  }
}
inline int64_t PanelWidth() { return 2 * Lanes(); }
inline int64_t BlockRows() { return Lanes() == 16 ? kRows<16> : kRows<8>; }

// Part of the reduction one pass over a tile takes: its panel of weights stays in L1, and the
// float32 sums are short enough to lose few bits.
constexpr int64_t kDepth = 128;
// Floats of a tile: 192 KiB of an L2 cache of 512 KiB.
constexpr int64_t kTileFloats = 48 << 10;
constexpr int64_t kMaxTileRows = 384;

// Rows of all clips in tiles: a run of rows of one clip or, where clips are short, several whole
// clips.
struct Tiling {
  int64_t batch = 0, rows = 0;
  int64_t items = 1;      // clips a tile
  int64_t tile_rows = 0;  // rows a tile takes of each of its clips
  int64_t per_item = 0;   // tiles a clip
  int64_t count = 0;      // tiles in all

  // `row_floats` and `halo_floats`: what a row of the tile, and each clip's halo, take in the
  // buffers. `rows_at_most` bounds the rows of a tile, over all its clips.
  static Tiling Make(int64_t batch, int64_t rows, int64_t row_floats, int64_t halo_floats,
                     int64_t rows_at_most) {
    Tiling t;
    t.batch = batch;
    t.rows = rows;
    if (batch == 0 || rows == 0) return t;
    const int64_t block = BlockRows();
    const int64_t fit = std::max(kTileFloats / std::max<int64_t>(row_floats, 1), 8 * block);
    const int64_t most = std::min(fit, rows_at_most);
    if (rows > most) {
      t.tile_rows = RoundUp(CeilDiv(rows, CeilDiv(rows, most)), block);
      t.per_item = CeilDiv(rows, t.tile_rows);
      t.count = batch * t.per_item;
    } else {
      const int64_t floats = std::max<int64_t>(rows * row_floats + halo_floats, 1);
      const int64_t fitting = std::min(kTileFloats / floats, rows_at_most / rows);
      t.items = std::clamp<int64_t>(fitting, 1, batch);
      t.tile_rows = rows;
      t.per_item = 1;
      t.count = CeilDiv(batch, t.items);
    }
    return t;
  }
};

struct Tile {
  int64_t item, items, row, rows;
};
inline Tile TileAt(const Tiling& t, int64_t index) {
  if (t.items > 1) {
    const int64_t item = index * t.items;
    return {item, std::min(t.items, t.batch - item), 0, t.tile_rows};
  }
  const int64_t row = index % t.per_item * t.tile_rows;
  return {index / t.per_item, 1, row, std::min(t.tile_rows, t.rows - row)};
}

// One caller's scratch, handed out front to back on cache lines. With a null base it only counts.
class Arena {
 public:
  explicit Arena(void* base)
      : base_(reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base) + 63) / 64 * 64)),
        counting_(base == nullptr) {}
  template <class T>
  T* Take(int64_t n) {
    char* at = base_ + used_;
    used_ += RoundUp(std::max<int64_t>(n, 0) * static_cast<int64_t>(sizeof(T)), 64);
    return counting_ ? nullptr : reinterpret_cast<T*>(at);
  }
  int64_t used() const { return used_ + 64; }

 private:
  char* base_;
  int64_t used_ = 0;
  bool counting_;
};

// Buffers for chunks that run at once: at most as many as threads, so one is always free.
class Slots {
 public:
  Slots(Arena& arena, int threads, int64_t floats)
      : count_(threads), stride_(RoundUp(floats, 16)), base_(arena.Take<float>(count_ * stride_)) {
    taken_ = std::make_unique<std::atomic<bool>[]>(static_cast<size_t>(count_));
    for (int i = 0; i < count_; ++i) taken_[static_cast<size_t>(i)] = false;
  }
  class Lease {
   public:
    explicit Lease(Slots& slots) : slots_(slots), index_(slots.Acquire()) {}
    ~Lease() { slots_.taken_[static_cast<size_t>(index_)].store(false, std::memory_order_release); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    float* data() const { return slots_.base_ + index_ * slots_.stride_; }

   private:
    Slots& slots_;
    int index_;
  };

 private:
  int Acquire() {
    for (int i = 0;; i = (i + 1) % count_) {
      if (!taken_[static_cast<size_t>(i)].exchange(true, std::memory_order_acquire)) return i;
    }
  }
  int count_;
  int64_t stride_;
  float* base_;
  std::unique_ptr<std::atomic<bool>[]> taken_;
};

inline int64_t ElementBytes(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

// A (batch, time, channels) array and what happens to it on load.
struct Source {
  const void* x = nullptr;
  DType dtype = DType::kFloat32;
  int64_t time = 0, channels = 0;
  const float *mean = nullptr, *gain = nullptr;  // (batch, Padded(channels))
  const float* offset = nullptr;                 // (Padded(channels))
  const void* y = nullptr;
  const float *add = nullptr, *mul = nullptr;  // (batch, Padded(channels))

  FillArgs Rows(int64_t item, int64_t row0, int64_t rows, int64_t first, int64_t width, float* out,
                int64_t out_stride) const {
    const int64_t bytes = item * time * channels * ElementBytes(dtype);
    const int64_t params = item * Padded(channels);
    FillArgs a = {};
    a.x = static_cast<const char*>(x) + bytes;
    a.dtype = dtype;
    a.time = time;
    a.channels = channels;
    a.row0 = row0;
    a.rows = rows;
    a.first = first;
    a.width = width;
    if (mean != nullptr) {
      a.mean = mean + params;
      a.gain = gain + params;
      a.offset = offset;
    }
    if (y != nullptr) {
      a.y = static_cast<const char*>(y) + bytes;
      a.add = add + params;
      a.mul = mul + params;
    }
    a.out = out;
    a.out_stride = out_stride;
    return a;
  }
};

// Copies a per-channel array into padded scratch, so that vectors may be read at its end.
inline float* PadChannels(Arena& arena, const float* from, int64_t channels) {
  float* to = arena.Take<float>(Padded(channels));
  if (to == nullptr) return to;
  std::fill(to, to + Padded(channels), 0.0f);
  if (from != nullptr) std::copy(from, from + channels, to);
  return to;
}

}  // namespace n2m::conv1d_block
