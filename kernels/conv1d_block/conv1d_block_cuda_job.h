// What one convolution on a GPU computes, and all of its index arithmetic: plain functions of
// integers, the same on the host, where they are tested, and on the device.
//
// The virtual axis. Output rows of all clips lie on one axis: row u of clip b is virtual row
// v = b * period + u. A period is so long that no output of one clip reads an input of the next,
// so a tile of rows may hold the end of one clip and the start of another; the rows between are
// computed and dropped. Short clips thus fill the tiles of a batch.
//
// The halo. Output row v reads through tap k the input row (v - b * period) * stride + k - pad.
// Taps of one phase, k = phase + j * stride, read rows that are `stride` apart; in shared memory
// those lie one after another, and tap j of a tile is the same rows moved by j. So one tile of x,
// of a chunk of channels and a phase, serves all taps of the phase: with stride 1 x is read once,
// not K times.
//
// Planes. A tile of (rows, columns) lies in shared memory as planes of 16 bytes (8 bfloat16 or 4
// float32 columns): 16-byte unit (plane, row) is at plane * plane_stride + row. Moving by a row is
// moving by 16 bytes, the unit of a wgmma descriptor; eight rows of a plane are the 8 x 16 byte
// core matrix of wgmma without swizzle and of ldmatrix, and lie in 128 consecutive bytes, so
// reading them is free of bank conflicts. The swizzled layouts cannot be moved by one row: their
// pattern repeats every eight.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace n2m::conv1d_block_cuda {

constexpr int kBlockN = 128;   // channels of a tile of results
constexpr int kSlab = 16;      // rows that a warp brings to memory at once
constexpr int kTileTaps = 16;  // taps that a tile of x serves at most; a longer phase takes several
constexpr int kMinPeriod = 8;
constexpr int kSlabClips = 3;  // a slab meets at most so many clips: 1 + 8 + 7 rows

__host__ __device__ constexpr int CeilDiv(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int Min(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int Max(int a, int b) { return a > b ? a : b; }

// n / divisor for 0 <= n < 2^31 by one multiplication.
struct FastDivisor {
  uint32_t divisor = 1, magic = 1, shift = 0;
  FastDivisor() = default;
  explicit FastDivisor(int d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    magic = static_cast<uint32_t>((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
  }
  __host__ __device__ int Quotient(int n) const {
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(magic) * n) >> 32);
    return static_cast<int>((high + static_cast<uint32_t>(n)) >> shift);
  }
  __host__ __device__ int Remainder(int n, int quotient) const {
    return n - quotient * static_cast<int>(divisor);
  }
};

// 16-byte units from one plane to the next: threads that write `planes_at_once` planes of a row and
// then of the next row, eight units in all, meet eight different groups of banks.
__host__ __device__ constexpr int PlaneStride(int rows, int planes_at_once) {
  const int want = planes_at_once >= 8 ? 1 : 8 / planes_at_once;
  return rows + (want - rows % 8 + 8) % 8;
}

// One product of a convolution: h (from x) with `taps` taps of a weight.
struct Operand {
  const void* x = nullptr;       // (batch, time, channels)
  const void* weight = nullptr;  // the first tap; rows of `weight_row` elements
  int64_t weight_tap = 0;        // elements from one tap to the next, may be negative
  int weight_row = 0, weight_rows = 0, weight_columns = 0;
  int time = 0, channels = 0;
  int taps = 0, stride = 1, pad = 0;
  bool vectors = true;             // rows of x are made of aligned 16-byte packs
  const float2* affine = nullptr;  // (batch, channels): h = swish(x * .x + .y)
  const void* other = nullptr;     // like x, with `mix` (batch, channels): h = x + .x + other * .y
  const float2* mix = nullptr;

  __host__ __device__ int Chunks(int chunk) const {
    return taps > 0 ? CeilDiv(channels, chunk) : 0;
  }
  __host__ __device__ int Phases() const { return Min(stride, taps); }
  __host__ __device__ int PhaseTaps(int phase) const {
    return stride == 1 ? taps - phase : CeilDiv(taps - phase, stride);  // a division takes long
  }
  // Input rows of a tile of `tile_rows` output rows.
  __host__ __device__ int TileRows(int tile_rows) const {
    return tile_rows + Min(taps > 0 ? PhaseTaps(0) : 1, kTileTaps) - 1;
  }
};

// What becomes of the results. out (batch, out_time, out_channels): row u goes to row
// u * out_step + out_first.
struct Results {
  void* out = nullptr;
  int out_time = 0, out_step = 1, out_first = 0, out_channels = 0;
  bool vectors = true;
  const float* bias = nullptr;
  float* partial = nullptr;  // (tiles, clips a tile, 2, out_channels): sums over rows of a tile
  // With `through`, the results are dh: du = dh swish'(u) with u = x * affine.x + affine.y for x =
  // through, out = du * affine.x, and the sums are of du and du (x - mean).
  const void* through = nullptr;
  const float2* affine = nullptr;
  const float* mean = nullptr;  // (batch, out_channels)
};

struct ConvJob {
  Operand operand[2];
  int operands = 1;
  int batch = 0, rows = 0;  // output rows a clip
  FastDivisor period;
  // Blocks that share the reduction of one tile, by chunks of channels; with more than one they
  // leave float32 sums in `shares` (splits, rows of all tiles, columns of all tiles), which are
  // added in order.
  int splits = 1;
  float* shares = nullptr;
  int x_stride = 0;  // of the planes of x, in 16-byte units; the same for both operands
  Results results;

  __host__ __device__ int Chunks(int chunk) const {
    int chunks = 0;
    for (int i = 0; i < operands; ++i) chunks += operand[i].Chunks(chunk);
    return chunks;
  }
  __host__ __device__ int Steps(int chunk) const {
    int steps = 0;
    for (int i = 0; i < operands; ++i) steps += operand[i].Chunks(chunk) * operand[i].taps;
    return steps;
  }
};

__host__ __device__ inline int Period(int rows, int taps, int stride) {
  return Max(rows + (taps > 0 ? (taps - 1) / stride : 0), kMinPeriod);
}
// Clips that a tile of rows can meet.
__host__ __device__ inline int TileClips(int tile_rows, int period) {
  return (tile_rows + period - 2) / period + 1;
}
__host__ __device__ inline int RowTiles(int64_t batch, int period, int tile_rows) {
  return static_cast<int>((batch * period + tile_rows - 1) / tile_rows);
}

// The position in the sequence of products: operands, chunks of channels, phases, taps of a phase.
struct Step {
  int operand = 0, chunk = 0, phase = 0, tap = 0;
  int x = 0;  // tiles of x before this one

  // Rows that the tap moves the tile of x by.
  __host__ __device__ int Shift() const { return tap % kTileTaps; }
  // The tap of the weight.
  __host__ __device__ int WeightTap(const Operand& op) const { return phase + tap * op.stride; }
  __host__ __device__ bool FirstOfTile() const { return Shift() == 0; }
  __host__ __device__ bool LastOfTile(const Operand& op) const {
    return tap + 1 == op.PhaseTaps(phase) || (tap + 1) % kTileTaps == 0;
  }
  // Taps of the tile of x.
  __host__ __device__ int TileTaps(const Operand& op) const {
    return Min(op.PhaseTaps(phase) - (tap - Shift()), kTileTaps);
  }

  __host__ __device__ void Next(const ConvJob& job, int chunk_channels) {
    const Operand& op = job.operand[operand];
    if (LastOfTile(op)) ++x;
    if (++tap < op.PhaseTaps(phase)) return;
    tap = 0;
    if (++phase < op.Phases()) return;
    phase = 0;
    if (++chunk < op.Chunks(chunk_channels)) return;
    chunk = 0;
    ++operand;
  }
  // To the next tile of x.
  __host__ __device__ void NextX(const ConvJob& job, int chunk_channels) {
    const Operand& op = job.operand[operand];
    tap += TileTaps(op) - 1 - Shift();
    Next(job, chunk_channels);
  }
};

// The part of the sequence that one of `splits` blocks takes: whole chunks of channels.
struct Share {
  Step first;
  int steps = 0, chunks = 0;

  __host__ __device__ Share(const ConvJob& job, int chunk_channels, int split) {
    const int64_t all = job.Chunks(chunk_channels);
    const int begin = static_cast<int>(all * split / job.splits);
    const int end = static_cast<int>(all * (split + 1) / job.splits);
    const int border = job.operand[0].Chunks(chunk_channels);  // where operand 1 begins
    chunks = end - begin;
    steps = (Min(end, border) - Min(begin, border)) * job.operand[0].taps +
            (Max(end, border) - Max(begin, border)) * job.operand[1].taps;
    first.operand = begin < border ? 0 : 1;
    first.chunk = begin < border ? begin : begin - border;
  }
  // Whether a step that came from `first` is still inside.
  __host__ __device__ bool Holds(const ConvJob& job, const Step& step, int chunk_channels) const {
    const int border = job.operand[0].Chunks(chunk_channels);
    const int from = first.chunk + (first.operand > 0 ? border : 0);
    return step.operand < job.operands &&
           step.chunk + (step.operand > 0 ? border : 0) < from + chunks;
  }
};

// wgmma reads shared memory through a descriptor: start address, the two distances between core
// matrices, and the swizzle (none here), in units of 16 bytes.
//   K-major:  rows of the tile are m or n; `leading` goes to the next 8 of k, `stride` to the next
//             8 rows.
//   MN-major: rows of the tile are k; `leading` goes to the next 8 rows of k, `stride` to the next
//             8 of m or n.
struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  uint32_t swizzle;                 // 0: none, 1: 128 bytes, 2: 64, 3: 32
};
__host__ __device__ inline uint64_t Encode(const Descriptor& d) {
  return static_cast<uint64_t>((d.start & 0x3ffff) >> 4) |
         static_cast<uint64_t>((d.leading & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((d.stride & 0x3ffff) >> 4) << 32 |
         static_cast<uint64_t>(d.swizzle) << 62;
}
__host__ __device__ inline Descriptor Decode(uint64_t bits) {
  return {static_cast<uint32_t>(bits & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<uint32_t>(bits >> 62)};
}
// Of a tile in planes, from 16-byte unit `unit` on.
__host__ __device__ inline uint64_t PlanesKMajor(uint32_t unit_address, int plane_stride) {
  return Encode({unit_address, static_cast<uint32_t>(plane_stride) * 16, 128, 0});
}
__host__ __device__ inline uint64_t PlanesMnMajor(uint32_t unit_address, int plane_stride) {
  return Encode({unit_address, 128, static_cast<uint32_t>(plane_stride) * 16, 0});
}

}  // namespace n2m::conv1d_block_cuda
