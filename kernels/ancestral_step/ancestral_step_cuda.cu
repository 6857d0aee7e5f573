// Four launches, the same ones whatever the coefficients are, so that they can be recorded; the
// last three look at the percentile themselves. |x| as an unsigned integer orders as |x| does, so
// the two ranks behind the percentile are found digit by digit, from the top: 11, 10 and 10 bits.
//   Estimate     x_0, and the counts of its first digits
//   CountDigits  of the values whose first digits are those of a wanted rank; twice
//   Finish       the percentile, the clipping and the update
// Counts are integers, so their order does not matter: two runs are bit-equal, and a clip is the
// same in any batch. Each block finds the digits anew from the counts, 2048 of them, which costs
// less than a launch for it.
#include <algorithm>

#include "kernels/ancestral_step/ancestral_step_math.h"
#include "kernels/common/device.cuh"
#include "noise2music/ancestral_step.h"

namespace n2m::cuda {
namespace {

using namespace ancestral_step;

constexpr char kName[] = "n2m.ancestral_step";
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kChunk = 4096;  // values of a clip that a block takes
constexpr int kFirstBins = 2048, kNextBins = 1024;
constexpr int64_t kMostValues = 0x7fffffff;

// Of the three digits.
__host__ __device__ constexpr int ShiftOf(int digit) {
  return digit == 0 ? 20 : digit == 1 ? 10 : 0;
}

// What a clip keeps in scratch between the launches, all 0 at first. Two wanted ranks, so two
// tables of each later digit; while the ranks share their digits only the first table is in use.
struct Selection {
  uint32_t first[kFirstBins];
  uint32_t next[2][2][kNextBins];  // [digit - 1][rank]
  uint32_t has_nan;
  uint32_t pad[3];
};
static_assert(sizeof(Selection) % 16 == 0, "clips follow one another");

struct StepArgs {
  const float *x_t, *z, *coefficients;
  const void *eps_cond, *eps_uncond;
  float *x_s, *x_0;
  Selection* selections;  // one a clip
  int64_t n;              // values of a clip
  int64_t chunks;
};

__device__ inline bool Clips(const StepArgs& a) { return a.coefficients[kPercentile] > 0.0f; }

// Calls body(value) for every pack of N values of the block's chunk.
template <int N, class Body>
__device__ inline void ForEachPack(const StepArgs& a, const Body& body) {
  const int64_t first = blockIdx.x % a.chunks * kChunk;
  const int64_t end = min(first + kChunk, a.n), clip = blockIdx.x / a.chunks * a.n;
  for (int64_t i = first + threadIdx.x * N; i < end; i += kThreads * N) body(clip + i);
}

__device__ inline uint32_t Magnitude(float x) { return __float_as_uint(x) & kMagnitude; }

template <class T, int N>
__global__ void __launch_bounds__(kThreads) n2m_ancestral_step_estimate(StepArgs a) {
  __shared__ uint32_t bins[kFirstBins];
  Selection& selection = a.selections[blockIdx.x / a.chunks];
  const bool clips = Clips(a);
  for (int i = threadIdx.x; i < kFirstBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  bool has_nan = false;
  ForEachPack<N>(a, [&](int64_t at) {
    Pack<float, N> x = Load<N>(a.x_t + at);
    const Pack<T, N> cond = Load<N>(static_cast<const T*>(a.eps_cond) + at);
    Pack<T, N> uncond = cond;
    if (a.eps_uncond != nullptr) uncond = Load<N>(static_cast<const T*>(a.eps_uncond) + at);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float eps = ToFloat(cond.values[i]);
      if (a.eps_uncond != nullptr) eps = Guide(a.coefficients, eps, ToFloat(uncond.values[i]));
      x.values[i] = EstimateValue(a.coefficients, x.values[i], eps);
      if (!clips) continue;
      atomicAdd(&bins[Magnitude(x.values[i]) >> ShiftOf(0)], 1u);
      has_nan |= Magnitude(x.values[i]) > kInfinity;
    }
    Store(a.x_0 + at, x);
  });
  if (!clips) return;
  if (has_nan) atomicOr(&selection.has_nan, 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < kFirstBins; i += kThreads) {
    if (bins[i] > 0) atomicAdd(&selection.first[i], bins[i]);
  }
}

// A wanted rank while its value is being found: the digits so far, and its rank among the values
// that begin with them.
struct Wanted {
  uint32_t prefix, rank;
};

// Appends the digit: the bin in which the rank lies. Every thread of the block calls it and returns
// the same.
template <int kBins>
__device__ Wanted AppendDigit(const uint32_t* bins, Wanted wanted, int shift) {
  __shared__ uint32_t of_warp[kWarps];
  __shared__ Wanted found;
  constexpr int kOwn = kBins / kThreads;  // neighbouring bins of a thread
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t count[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    count[i] = bins[threadIdx.x * kOwn + i];
    sum += count[i];
  }
  uint32_t up_to = sum;  // over the lanes up to this one
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint32_t before = __shfl_up_sync(kEveryLane, up_to, step);
    if (lane >= step) up_to += before;
  }
  if (lane == kWarp - 1) of_warp[warp] = up_to;
  __syncthreads();
  uint32_t below = up_to - sum;
  for (int i = 0; i < warp; ++i) below += of_warp[i];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (below <= wanted.rank && wanted.rank < below + count[i]) {
      const uint32_t digit = static_cast<uint32_t>(threadIdx.x) * kOwn + i;
      found = {wanted.prefix | digit << shift, wanted.rank - below};
    }
    below += count[i];
  }
  __syncthreads();
  wanted = found;
  __syncthreads();  // nobody overwrites `found` before everybody has read it
  return wanted;
}

// The two wanted ranks after `digits` digits.
struct Search {
  Wanted wanted[2];
  __device__ bool Same() const { return wanted[0].prefix == wanted[1].prefix; }
};

template <int kDigits>
__device__ Search Find(const Selection& selection, const Ranks& ranks) {
  Search s;
  s.wanted[0] = {0, static_cast<uint32_t>(ranks.low)};
  s.wanted[1] = {0, static_cast<uint32_t>(ranks.high)};
  for (int k = 0; k < 2; ++k) {
    s.wanted[k] = AppendDigit<kFirstBins>(selection.first, s.wanted[k], ShiftOf(0));
  }
#pragma unroll
  for (int digit = 1; digit < kDigits; ++digit) {
    const int second = s.Same() ? 0 : 1;
    for (int k = 0; k < 2; ++k) {
      const uint32_t* const bins = selection.next[digit - 1][k == 0 ? 0 : second];
      s.wanted[k] = AppendDigit<kNextBins>(bins, s.wanted[k], ShiftOf(digit));
    }
  }
  return s;
}

// Counts digit kDigit (1 or 2) of the values that begin as a wanted rank does.
template <int kDigit, int N>
__global__ void __launch_bounds__(kThreads) n2m_ancestral_step_count(StepArgs a) {
  if (!Clips(a)) return;
  __shared__ uint32_t bins[2][kNextBins];
  Selection& selection = a.selections[blockIdx.x / a.chunks];
  for (int i = threadIdx.x; i < kNextBins; i += kThreads) bins[0][i] = bins[1][i] = 0;
  const Search search = Find<kDigit>(selection, RanksOf(a.n, a.coefficients[kPercentile]));
  __syncthreads();
  constexpr int kAbove = ShiftOf(kDigit - 1);
  const uint32_t prefix[] = {search.wanted[0].prefix >> kAbove, search.wanted[1].prefix >> kAbove};
  ForEachPack<N>(a, [&](int64_t at) {
    const Pack<float, N> x = Load<N>(a.x_0 + at);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const uint32_t bits = Magnitude(x.values[i]);
      const uint32_t digit = bits >> ShiftOf(kDigit) & (kNextBins - 1);
      if (bits >> kAbove == prefix[0]) {
        atomicAdd(&bins[0][digit], 1u);
      } else if (bits >> kAbove == prefix[1]) {
        atomicAdd(&bins[1][digit], 1u);
      }
    }
  });
  __syncthreads();
  for (int i = threadIdx.x; i < kNextBins; i += kThreads) {
    for (int k = 0; k < 2; ++k) {
      if (bins[k][i] > 0) atomicAdd(&selection.next[kDigit - 1][k][i], bins[k][i]);
    }
  }
}

template <int N>
__global__ void __launch_bounds__(kThreads) n2m_ancestral_step_fwd(StepArgs a) {
  const Selection& selection = a.selections[blockIdx.x / a.chunks];
  const bool clips = Clips(a), draws = a.coefficients[kCNoise] != 0.0f && a.z != nullptr;
  float s = 0;
  if (clips) {
    const Ranks ranks = RanksOf(a.n, a.coefficients[kPercentile]);
    const Search search = Find<3>(selection, ranks);
    const float percentile = __uint_as_float(search.wanted[0].prefix) * ranks.low_weight +
                             __uint_as_float(search.wanted[1].prefix) * ranks.high_weight;
    const float nan = __uint_as_float(0x7fc00000u);
    s = LimitOf(selection.has_nan != 0 ? nan : percentile, a.coefficients[kFloor]);
  }
  const float gain = clips ? a.coefficients[kFloor] / s : 1.0f;
  ForEachPack<N>(a, [&](int64_t at) {
    const Pack<float, N> x_t = Load<N>(a.x_t + at);
    Pack<float, N> x_0 = Load<N>(a.x_0 + at), x_s;
    if (clips) {
#pragma unroll
      for (int i = 0; i < N; ++i) x_0.values[i] = ClipValue(x_0.values[i], s, gain);
      Store(a.x_0 + at, x_0);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x_s.values[i] = UpdateValue(a.coefficients, x_t.values[i], x_0.values[i]);
    }
    if (draws) {
      const Pack<float, N> z = Load<N>(a.z + at);
#pragma unroll
      for (int i = 0; i < N; ++i) x_s.values[i] += a.coefficients[kCNoise] * z.values[i];
    }
    Store(a.x_s + at, x_s);
  });
}

template <class T, int N>
Status LaunchStep(const StepArgs& a, int64_t batch, void* stream) {
  const dim3 grid(static_cast<unsigned>(batch * a.chunks)), block(kThreads);
  for (auto* kernel : {n2m_ancestral_step_estimate<T, N>, n2m_ancestral_step_count<1, N>,
                       n2m_ancestral_step_count<2, N>, n2m_ancestral_step_fwd<N>}) {
    if (Status status = Launch(kName, kernel, grid, block, 0, stream, a); !status.ok()) {
      return status;
    }
  }
  return Status::Ok();
}

}  // namespace

int64_t AncestralStepScratch(const AncestralStepShape& s) {
  return Check(s).ok() ? s.B * static_cast<int64_t>(sizeof(Selection) / sizeof(float)) : 0;
}

Status AncestralStepFwd(const AncestralStepShape& s, const float* x_t, const void* eps_cond,
                        const void* eps_uncond, const float* z, const float* coefficients,
                        float* x_s, float* x_0, float* scratch, void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t n = s.T * s.C;
  if (s.B * n == 0) return Status::Ok();
  if (n > kMostValues) {
    return Status::InvalidArgument(
        "n2m.ancestral_step: a clip must be of less than 2^31 values on a GPU, got " +
        std::to_string(n));
  }
  auto* const selections = reinterpret_cast<Selection*>(scratch);
  const Status status = Clear(kName, selections, s.B * sizeof(Selection), stream);
  if (!status.ok()) return status;
  const StepArgs a = {x_t, z,   coefficients, eps_cond, eps_uncond,
                      x_s, x_0, selections,   n,        CeilDiv(n, kChunk)};
  bool packs = n % 4 == 0;
  for (const void* p :
       {static_cast<const void*>(x_t), eps_cond, eps_uncond, static_cast<const void*>(z),
        static_cast<const void*>(x_s), static_cast<const void*>(x_0)}) {
    packs = packs && IsAligned(p);
  }
  if (s.eps_dtype == DType::kFloat32) {
    return packs ? LaunchStep<float, 4>(a, s.B, stream) : LaunchStep<float, 1>(a, s.B, stream);
  }
  return packs ? LaunchStep<BFloat16, 4>(a, s.B, stream) : LaunchStep<BFloat16, 1>(a, s.B, stream);
}

}  // namespace n2m::cuda
