// The convolution on Hopper: one to three consumer warpgroups multiply with wgmma, one producer
// warpgroup feeds them through mbarriers.
//
//   producer: weights of a tap: wait until free, start copies; a step later, when they have
//   arrived,
//     fence and signal "full". A tile of x is copied one tile ahead, and normalised in place in as
//     many parts as the tile before has taps, one a step.
//   consumers: wait for "full"; wgmma on x moved by the tap and the weights; signal "free" of the
//     step before.
//
// So the producer's work on x is spread over the products of the tile before, and the consumers
// wait for none of it. Copies are cp.async rather than TMA: x has to pass through registers anyway,
// and a TMA box of 16-byte columns, which is what planes need, moves half a sector at a time.
#pragma once

#include "kernels/conv1d_block/conv1d_block_cuda_epilogue.cuh"

namespace n2m::conv1d_block_cuda {

struct Wgmma {
  using T = BFloat16;
  static constexpr int kChunk = 64, kStages = 4, kXTiles = 4;
  // Steps that the copies of weights may be under way. At the first step of tile i the producer
  // waits until tile i + 1 - kXTiles is free, which the consumers say at the first step of the tile
  // behind that one; it must be "full" by then, and at one step a tile is if kXTiles > kLag + 2.
  static constexpr int kLag = 1;
  static constexpr int kWarpgroup = 128;
  static constexpr int kConsumerBarrier = 1;  // the named barrier of the consumers
  using Loader = TileLoader<T, kWarpgroup, kChunk>;

  // Rows of a tile, the fewest first. A warpgroup multiplies 64 of them; of 256, which would leave
  // a thread of four warpgroups too few registers, two multiply 128 each.
  static constexpr int kBlockM[] = {64, 128, 192, 256};
  __host__ __device__ static constexpr int Slabs(int block_m) { return block_m == 256 ? 2 : 1; }
  __host__ __device__ static constexpr int Consumers(int block_m) {
    return block_m / (64 * Slabs(block_m)) * kWarpgroup;
  }
  __host__ __device__ static constexpr int Threads(int block_m) {
    return Consumers(block_m) + kWarpgroup;
  }
};
static_assert(Wgmma::kXTiles > Wgmma::kLag + 2 && Wgmma::kStages > Wgmma::kLag + 1,
              "the producer would wait for itself");

template <bool kTransposed>
__host__ __device__ int WgmmaBytes(int x_tile_bytes, int block_m) {
  using Loader = Wgmma::Loader;
  const int barriers = 2 * (Wgmma::kStages + Wgmma::kXTiles) * 8;
  const int pipeline =
      Wgmma::kXTiles * x_tile_bytes + Wgmma::kStages * Loader::kWeightBytes<kTransposed> + barriers;
  return Max(pipeline, EpilogueBytes(Wgmma::Consumers(block_m) / 32, block_m));
}

// The place in a ring of buffers, and the parity of its barrier.
template <int kCount>
struct Ring {
  int index = 0, parity = 0;
  __device__ void Next() {
    if (++index < kCount) return;
    index = 0;
    parity ^= 1;
  }
};

// "full" and "free" mbarriers of a ring of buffers.
struct RingBarriers {
  uint32_t full, free;  // addresses of the first of each
  __device__ void Init(int buffers, int consumers) const {
    for (int i = 0; i < buffers; ++i) {
      ptx::MbarrierInit(full + i * 8, Wgmma::kWarpgroup);  // every producer thread
      ptx::MbarrierInit(free + i * 8, consumers / 32);     // a lane of every consumer warp
    }
  }
};

struct WgmmaShared {
  unsigned char *x, *weights;
  RingBarriers x_barriers, weight_barriers;

  __device__ WgmmaShared(unsigned char* shared, int x_tile_bytes, int weight_bytes)
      : x(shared), weights(shared + Wgmma::kXTiles * x_tile_bytes) {
    const uint32_t barriers = ptx::SmemAddress(weights + Wgmma::kStages * weight_bytes);
    x_barriers = {barriers, barriers + Wgmma::kXTiles * 8};
    weight_barriers = {barriers + 2 * Wgmma::kXTiles * 8,
                       barriers + (2 * Wgmma::kXTiles + Wgmma::kStages) * 8};
  }
};

template <int kBlockM, bool kTransposed>
__device__ inline void Produce(const ConvJob& job, const WgmmaShared& shared, int x_tile_bytes,
                               int v0, int n0, const Share& share, int thread) {
  using Loader = Wgmma::Loader;
  constexpr int kWeightBytes = Loader::kWeightBytes<kTransposed>;
  const auto x_tile = [&](int tile) { return shared.x + tile * x_tile_bytes; };
  Step issue = share.first, finish = issue, x_next = issue;
  Ring<Wgmma::kXTiles> x_issue, x_finish;
  Ring<Wgmma::kStages> weight_issue, weight_finish;
  const auto issue_x = [&] {
    if (!share.Holds(job, x_next, Wgmma::kChunk)) return;
    ptx::MbarrierWait(shared.x_barriers.free + x_issue.index * 8, x_issue.parity ^ 1);
    Loader::IssueX(job, x_next, v0, kBlockM, thread, ptx::SmemAddress(x_tile(x_issue.index)));
    x_issue.Next();
  };
  const auto full_x = [&] {
    ptx::FenceProxyAsync();
    ptx::MbarrierArrive(shared.x_barriers.full + x_finish.index * 8);
    x_finish.Next();
  };
  if (share.steps > 0) {
    issue_x();
    ptx::CpAsyncCommit();
    ptx::CpAsyncWait<0>();
    Loader::FinishX(job, x_next, v0, kBlockM, thread, x_tile(0));
    full_x();
  }
  Step x_under_way;  // the tile that is being normalised
  for (int s = 0; s < share.steps + Wgmma::kLag; ++s) {
    if (s < share.steps) {
      if (issue.FirstOfTile()) {
        x_next.NextX(job, Wgmma::kChunk);
        issue_x();
      }
      ptx::MbarrierWait(shared.weight_barriers.free + weight_issue.index * 8,
                        weight_issue.parity ^ 1);
      Loader::IssueWeight<kTransposed>(
          job, issue, n0, thread,
          ptx::SmemAddress(shared.weights + weight_issue.index * kWeightBytes));
      weight_issue.Next();
      issue.Next(job, Wgmma::kChunk);
    }
    ptx::CpAsyncCommit();
    if (s < Wgmma::kLag) continue;
    ptx::CpAsyncWait<Wgmma::kLag>();
    ptx::FenceProxyAsync();
    ptx::MbarrierArrive(shared.weight_barriers.full + weight_finish.index * 8);
    weight_finish.Next();
    const Operand& op = job.operand[finish.operand];
    if (finish.FirstOfTile()) {
      x_under_way = finish;
      x_under_way.NextX(job, Wgmma::kChunk);
    }
    if (share.Holds(job, x_under_way, Wgmma::kChunk)) {
      Loader::FinishX(job, x_under_way, v0, kBlockM, thread, x_tile(x_finish.index),
                      {finish.Shift(), finish.TileTaps(op)});
      if (finish.LastOfTile(op)) full_x();
    }
    finish.Next(job, Wgmma::kChunk);
  }
}

// Grid as in n2m_conv1d_block_multistage. Warpgroup w multiplies rows w * 64 * kSlabs and on.
template <int kBlockM, bool kTransposed>
__device__ inline void Consume(const ConvJob& job, const WgmmaShared& shared, int x_tile_bytes,
                               const Share& share, int thread,
                               float (&acc)[Wgmma::Slabs(kBlockM)][16][4]) {
  using Loader = Wgmma::Loader;
  constexpr int kWeightStride = Loader::kWeightStride<kTransposed>;
  constexpr int kSlabs = Wgmma::Slabs(kBlockM);
  const int lane = thread % 32, rows = thread / Wgmma::kWarpgroup * 64 * kSlabs;
  const uint32_t x0 = ptx::SmemAddress(shared.x) + rows * 16;
  const uint32_t weight0 = ptx::SmemAddress(shared.weights);
  Step now = share.first;
  Ring<Wgmma::kXTiles> x_ring;
  Ring<Wgmma::kStages> weight_ring;
  uint32_t free_weights = 0, free_x = 0;  // barriers to signal when the step under way has ended
  for (int s = 0; s < share.steps; ++s) {
    if (now.FirstOfTile())
      ptx::MbarrierWait(shared.x_barriers.full + x_ring.index * 8, x_ring.parity);
    ptx::MbarrierWait(shared.weight_barriers.full + weight_ring.index * 8, weight_ring.parity);
    const uint32_t x = x0 + x_ring.index * x_tile_bytes + now.Shift() * 16;
    const uint32_t weight = weight0 + weight_ring.index * Loader::kWeightBytes<kTransposed>;
    ptx::WgmmaFence();
#pragma unroll
    for (int k = 0; k < Wgmma::kChunk; k += 16) {
      const uint64_t b = kTransposed
                             ? PlanesKMajor(weight + k / 8 * kWeightStride * 16, kWeightStride)
                             : PlanesMnMajor(weight + k * 16, kWeightStride);
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const uint64_t a = PlanesKMajor(x + (k / 8 * job.x_stride + i * 64) * 16, job.x_stride);
        ptx::WgmmaM64N128K16<false, !kTransposed>(acc[i], a, b);
      }
    }
    ptx::WgmmaCommit();
    ptx::WgmmaWait<1>();  // the step before has ended
    if (lane == 0 && free_weights != 0) ptx::MbarrierArrive(free_weights);
    if (lane == 0 && free_x != 0) ptx::MbarrierArrive(free_x);
    free_weights = shared.weight_barriers.free + weight_ring.index * 8;
    free_x = 0;
    if (now.LastOfTile(job.operand[now.operand])) {
      free_x = shared.x_barriers.free + x_ring.index * 8;
      x_ring.Next();
    }
    weight_ring.Next();
    now.Next(job, Wgmma::kChunk);
  }
  ptx::WgmmaWait<0>();
}

template <int kBlockM, bool kTransposed>
__global__ void __launch_bounds__(Wgmma::Threads(kBlockM), 1)
    n2m_conv1d_block_wgmma(const __grid_constant__ ConvJob job, int x_tile_bytes) {
#ifdef N2M_HAS_WGMMA
  N2M_DYNAMIC_SHARED(unsigned char, memory);
  const WgmmaShared shared(memory, x_tile_bytes, Wgmma::Loader::kWeightBytes<kTransposed>);
  const int thread = threadIdx.x;
  const int n_tiles = CeilDiv(job.results.out_channels, kBlockN);
  const int tile = blockIdx.x / n_tiles, n0 = blockIdx.x % n_tiles * kBlockN;
  const int v0 = tile * kBlockM, split = blockIdx.y;
  const Share share(job, Wgmma::kChunk, split);
  constexpr int kConsumers = Wgmma::Consumers(kBlockM), kSlabs = Wgmma::Slabs(kBlockM);
  if (thread == 0) {
    shared.x_barriers.Init(Wgmma::kXTiles, kConsumers);
    shared.weight_barriers.Init(Wgmma::kStages, kConsumers);
    ptx::FenceProxyAsync();
  }
  __syncthreads();
  if (thread >= kConsumers) {
    Produce<kBlockM, kTransposed>(job, shared, x_tile_bytes, v0, n0, share, thread - kConsumers);
    return;
  }
  float acc[kSlabs][16][4] = {};
  Consume<kBlockM, kTransposed>(job, shared, x_tile_bytes, share, thread, acc);
  // Everything that was copied has been multiplied: the epilogue may lie over it.
  ptx::NamedBarrier(Wgmma::kConsumerBarrier, kConsumers);
  const int warp = thread / 32, lane = thread % 32;
  const int64_t rows_of_all = static_cast<int64_t>(gridDim.x / n_tiles) * kBlockM;
  float* const staging = reinterpret_cast<float*>(memory + warp * kStagingBytes);
  float* const sums = reinterpret_cast<float*>(memory + kConsumers / 32 * kStagingBytes);
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    const int row = warp / 4 * 64 * kSlabs + slab * 64 + warp % 4 * kSlab;
    StageFragments(acc[slab], lane, staging);
    __syncwarp();
    if (job.splits > 1) {
      WriteShare(job, split, rows_of_all, v0 + row, n0, lane, staging);
    } else {
      WriteSlab<Wgmma::T>(job, v0 + row, n0, lane, staging, sums + row / kSlab * kSlabSums);
    }
    __syncwarp();
  }
  if (job.splits > 1) return;
  ptx::NamedBarrier(Wgmma::kConsumerBarrier, kConsumers);
  WriteSums(job, tile, kBlockM, n0, thread, kConsumers, sums);
#endif
}

}  // namespace n2m::conv1d_block_cuda
