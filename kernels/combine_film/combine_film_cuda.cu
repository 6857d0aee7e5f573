// A pass reads x once: a block takes a chunk of rows of one item and up to 256 packs of 16 bytes of
// their channels; a thread keeps the scale, the shift and the sums of its channels in registers.
// Sums go to scratch by chunk and channel and are added by a second kernel, always in the same
// order. Chunks depend on T and C only: an item's numbers are the same in any batch.
#include <algorithm>

#include "kernels/combine_film/combine_film_check.h"
#include "kernels/common/device.cuh"
#include "noise2music/combine_film.h"

namespace n2m::cuda {
namespace {

using combine_film::Check;

constexpr char kName[] = "n2m.combine_film";
constexpr int kThreads = 256;
constexpr int kRowsAThread = 16;
constexpr int kLeastRows = 32, kMostRows = 256;  // of a chunk
constexpr int kSlices = 16;                      // warps that share the sum of a column
constexpr int kItems = 4;                        // of the batch that a thread of Film takes

// How a block covers rows and packs of N channels: thread i takes pack i % lanes of row i / lanes.
struct Tiles {
  int lanes, rows_at_once;
  int64_t rows, chunks, columns;  // rows of a chunk; chunks of an item; blocks side by side
};

Tiles TilesOf(const CombineFilmShape& s, int pack) {
  Tiles t;
  const int64_t packs = std::max<int64_t>(s.C / pack, 1);
  t.lanes = static_cast<int>(std::min<int64_t>(packs, kThreads));
  t.rows_at_once = kThreads / t.lanes;
  t.rows = std::clamp(kRowsAThread * t.rows_at_once, kLeastRows, kMostRows);
  t.chunks = CeilDiv(s.T, t.rows);
  t.columns = CeilDiv(packs, t.lanes);
  return t;
}

struct RowsArgs {
  const void *x, *dy;
  void* out;            // y or dx
  const float* film;    // (B, 2C)
  const float* dsums;   // (B, G, 2)
  float* partial;       // (B, chunks, 2, C): two sums by channel
  int64_t T, C, width;  // width = C / G
  Tiles tiles;
};

// Where a thread works.
struct Place {
  int64_t item, first_row, end_row, channel;  // row in the item
  bool active;
};

template <int N>
__device__ Place PlaceOf(const RowsArgs& a) {
  Place p;
  const int thread = threadIdx.x, row = thread / a.tiles.lanes;
  const int64_t chunk = blockIdx.x % a.tiles.chunks;
  p.item = blockIdx.x / a.tiles.chunks;
  p.first_row = chunk * a.tiles.rows + row;
  p.end_row = min((chunk + 1) * a.tiles.rows, a.T);
  p.channel = (static_cast<int64_t>(blockIdx.y) * a.tiles.lanes + thread % a.tiles.lanes) * N;
  p.active = row < a.tiles.rows_at_once && p.channel < a.C;
  return p;
}

// Adds the two sums of every channel over the rows of the block and stores them.
template <int N>
__device__ void StoreSums(const RowsArgs& a, const Place& p, const float (&first)[N],
                          const float (&second)[N]) {
  __shared__ float sums[2 * N][kThreads];
  const int thread = threadIdx.x;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[i][thread] = p.active ? first[i] : 0.0f;
    sums[N + i][thread] = p.active ? second[i] : 0.0f;
  }
  __syncthreads();
  float* const to = a.partial + blockIdx.x * 2 * a.C;
  const int64_t start = static_cast<int64_t>(blockIdx.y) * a.tiles.lanes * N;
  for (int j = thread; j < a.tiles.lanes * N; j += kThreads) {
    if (start + j >= a.C) break;
    float total[2] = {};
    for (int row = 0; row < a.tiles.rows_at_once; ++row) {
      const int from = row * a.tiles.lanes + j / N;
      total[0] += sums[j % N][from];
      total[1] += sums[N + j % N][from];
    }
    to[start + j] = total[0];
    to[a.C + start + j] = total[1];
  }
}

template <int N>
__device__ void LoadFilm(const RowsArgs& a, const Place& p, float (&gain)[N], float (&shift)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    gain[i] = 1.0f + a.film[p.item * 2 * a.C + p.channel + i];
    shift[i] = a.film[(p.item * 2 + 1) * a.C + p.channel + i];
  }
}

// y = x (1 + scale) + shift, and the sums of y as stored.
template <class T, int N, bool kSums>
__global__ void __launch_bounds__(kThreads) n2m_combine_film_fwd(RowsArgs a) {
  const Place p = PlaceOf<N>(a);
  float sum[N] = {}, squares[N] = {};
  if (p.active) {
    float gain[N], shift[N];
    LoadFilm(a, p, gain, shift);
    const int64_t start = p.item * a.T * a.C + p.channel;
    const T* const x = static_cast<const T*>(a.x) + start;
    T* const y = static_cast<T*>(a.out) + start;
    const int64_t step = a.tiles.rows_at_once;
    constexpr int kAhead = 4;  // loads in flight
    for (int64_t t = p.first_row; t < p.end_row; t += kAhead * step) {
      Pack<T, N> pack[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (t + u * step < p.end_row) pack[u] = Load<N>(x + (t + u * step) * a.C);
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (t + u * step >= p.end_row) break;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          T& value = pack[u].values[i];
          value = FromFloat<T>(ToFloat(value) * gain[i] + shift[i]);
          if (kSums) {
            sum[i] += ToFloat(value);
            squares[i] += ToFloat(value) * ToFloat(value);
          }
        }
        Store(y + (t + u * step) * a.C, pack[u]);
      }
    }
  }
  if (kSums) StoreSums(a, p, sum, squares);
}

// q = dy + dsum + 2 y dsquares; dx = q (1 + scale), dscale = sum q x, dshift = sum q.
template <class T, int N, bool kSums>
__global__ void __launch_bounds__(kThreads) n2m_combine_film_bwd(RowsArgs a) {
  const Place p = PlaceOf<N>(a);
  float dscale[N] = {}, dshift[N] = {};
  if (p.active) {
    float gain[N], shift[N], dsum[N] = {}, dsquares[N] = {};
    LoadFilm(a, p, gain, shift);
    if (kSums) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int64_t group = (p.item * a.C + p.channel + i) / a.width;
        dsum[i] = a.dsums[2 * group];
        dsquares[i] = 2.0f * a.dsums[2 * group + 1];
      }
    }
    const int64_t start = p.item * a.T * a.C + p.channel;
    const T* const x = static_cast<const T*>(a.x) + start;
    const T* const dy = static_cast<const T*>(a.dy) + start;
    T* const dx = static_cast<T*>(a.out) + start;
    const int64_t step = a.tiles.rows_at_once;
    constexpr int kAhead = 2;
    for (int64_t t = p.first_row; t < p.end_row; t += kAhead * step) {
      Pack<T, N> pack[kAhead], cotangent[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (t + u * step < p.end_row) {
          pack[u] = Load<N>(x + (t + u * step) * a.C);
          cotangent[u] = Load<N>(dy + (t + u * step) * a.C);
        }
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (t + u * step >= p.end_row) break;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float value = ToFloat(pack[u].values[i]);
          float q = ToFloat(cotangent[u].values[i]);
          if (kSums) q += dsum[i] + (value * gain[i] + shift[i]) * dsquares[i];
          dscale[i] += q * value;
          dshift[i] += q;
          cotangent[u].values[i] = FromFloat<T>(q * gain[i]);
        }
        Store(dx + (t + u * step) * a.C, cotangent[u]);
      }
    }
  }
  StoreSums(a, p, dscale, dshift);
}

// sums[b, g] of the sums by chunk and channel; a block a group.
__global__ void __launch_bounds__(kThreads)
    n2m_combine_film_group_sums(const float* partial, float* sums, int64_t chunks, int64_t C,
                                int64_t width) {
  const int64_t groups = C / width, item = blockIdx.x / groups, group = blockIdx.x % groups;
  const float* const from = partial + item * chunks * 2 * C + group * width;
  double total[2] = {};
  for (int64_t i = threadIdx.x; i < chunks * width; i += kThreads) {
    const float* const pair = from + i / width * 2 * C + i % width;
    total[0] += pair[0];
    total[1] += pair[C];
  }
  __shared__ double of_warp[2][kThreads / kWarp];
  for (int k = 0; k < 2; ++k) {
    const double sum = WarpSum(total[k]);
    if (threadIdx.x % kWarp == 0) of_warp[k][threadIdx.x / kWarp] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double sum = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += of_warp[threadIdx.x][warp];
  sums[blockIdx.x * 2 + threadIdx.x] = static_cast<float>(sum);
}

// out[b, j] = first[j] + sum_k weight[b, k] rows[b, k, j] for kItems of the batch at once: a warp a
// slice of k, a lane a column. weight null: 1; first null: 0; item_stride 0: one matrix for all b.
struct ColumnArgs {
  const float *first, *weight, *rows;
  float* out;
  int64_t B, K, columns, item_stride;
};

__global__ void __launch_bounds__(kSlices* kWarp) n2m_combine_film_columns(ColumnArgs a) {
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  __shared__ float slices[kItems][kSlices][kWarp];
  for (int64_t b0 = static_cast<int64_t>(blockIdx.y) * kItems; b0 < a.B;
       b0 += static_cast<int64_t>(gridDim.y) * kItems) {
    float sum[kItems] = {};
    if (j < a.columns) {
#pragma unroll 4
      for (int64_t k = slice; k < a.K; k += kSlices) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
          if (b0 + i >= a.B) break;
          const float weight = a.weight == nullptr ? 1.0f : a.weight[(b0 + i) * a.K + k];
          sum[i] += weight * a.rows[(b0 + i) * a.item_stride + k * a.columns + j];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) slices[i][slice][lane] = sum[i];
    __syncthreads();
    if (slice < kItems && b0 + slice < a.B && j < a.columns) {
      float total = a.first == nullptr ? 0.0f : a.first[j];
      for (int k = 0; k < kSlices; ++k) total += slices[slice][k][lane];
      a.out[(b0 + slice) * a.columns + j] = total;
    }
    __syncthreads();
  }
}

Status LaunchColumns(const ColumnArgs& a, void* stream) {
  if (a.B * a.columns == 0) return Status::Ok();
  const dim3 grid(static_cast<unsigned>(CeilDiv(a.columns, kWarp)),
                  static_cast<unsigned>(std::min(CeilDiv(a.B, kItems), kMostGridY)));
  return Launch(kName, n2m_combine_film_columns, grid, dim3(kSlices * kWarp), 0, stream, a);
}

// dkernel[e, j] = sum_b emb[b, e] dfilm[b, j], and dbias as one more row whose emb is 1.
__global__ void __launch_bounds__(kThreads)
    n2m_combine_film_dkernel(const float* emb, const float* dfilm, float* dkernel, float* dbias,
                             int64_t B, int64_t E, int64_t columns) {
  const int64_t tiles = (columns + kThreads - 1) / kThreads, e = blockIdx.x / tiles;
  const int64_t j = blockIdx.x % tiles * kThreads + threadIdx.x;
  if (j >= columns) return;
  float sum = 0;
  for (int64_t b = 0; b < B; ++b) {
    sum += (e == E ? 1.0f : emb[b * E + e]) * dfilm[b * columns + j];
  }
  (e == E ? dbias : dkernel + e * columns)[j] = sum;
}

// demb[b, e] = sum_j dfilm[b, j] kernel[e, j]; a warp an element.
__global__ void __launch_bounds__(kThreads)
    n2m_combine_film_demb(const float* kernel, const float* dfilm, float* demb, int64_t B,
                          int64_t E, int64_t columns) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (at >= B * E) return;
  const float* const row = kernel + at % E * columns;
  const float* const d = dfilm + at / E * columns;
  float sum = 0;
  for (int64_t j = threadIdx.x % kWarp; j < columns; j += kWarp) sum += row[j] * d[j];
  sum = WarpSum(sum);
  if (threadIdx.x % kWarp == 0) demb[at] = sum;
}

enum class Pass { kForward, kBackward };

template <class T, int N>
Status LaunchRows(Pass pass, const CombineFilmShape& s, RowsArgs a, void* stream) {
  a.tiles = TilesOf(s, N);
  if (s.B * s.T * s.C == 0) return Status::Ok();
  const dim3 grid(static_cast<unsigned>(s.B * a.tiles.chunks),
                  static_cast<unsigned>(a.tiles.columns));
  auto* const kernel =
      pass == Pass::kForward
          ? (s.G > 0 ? n2m_combine_film_fwd<T, N, true> : n2m_combine_film_fwd<T, N, false>)
          : (s.G > 0 ? n2m_combine_film_bwd<T, N, true> : n2m_combine_film_bwd<T, N, false>);
  return Launch(kName, kernel, grid, dim3(kThreads), 0, stream, a);
}

// Packs of 16 bytes where the channels and the addresses allow it, else single values.
int PackOf(const CombineFilmShape& s, const RowsArgs& a) {
  const int pack = s.dtype == DType::kFloat32 ? kPack<float> : kPack<BFloat16>;
  const bool aligned = IsAligned(a.x) && IsAligned(a.dy) && IsAligned(a.out);
  return aligned && s.C % pack == 0 ? pack : 1;
}

Status Rows(Pass pass, const CombineFilmShape& s, const RowsArgs& a, int pack, void* stream) {
  if (s.dtype == DType::kFloat32) {
    return pack == 1 ? LaunchRows<float, 1>(pass, s, a, stream)
                     : LaunchRows<float, kPack<float>>(pass, s, a, stream);
  }
  return pack == 1 ? LaunchRows<BFloat16, 1>(pass, s, a, stream)
                   : LaunchRows<BFloat16, kPack<BFloat16>>(pass, s, a, stream);
}

}  // namespace

int64_t CombineFilmFwdScratch(const CombineFilmShape& s) {
  if (!Check(s).ok()) return 0;
  return s.B * 2 * s.C * (1 + (s.G > 0 ? CeilDiv(s.T, kLeastRows) : 0));
}

int64_t CombineFilmBwdScratch(const CombineFilmShape& s) {
  if (!Check(s).ok()) return 0;
  return s.B * 2 * s.C * (1 + CeilDiv(s.T, kLeastRows));
}

Status CombineFilmFwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, void* y, float* sums, float* scratch,
                      void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  float* const film = scratch;
  float* const partial = scratch + s.B * 2 * s.C;
  const int64_t width = s.G > 0 ? s.C / s.G : 1;
  if (Status status = LaunchColumns({bias, emb, kernel, film, s.B, s.E, 2 * s.C, 0}, stream);
      !status.ok()) {
    return status;
  }
  const RowsArgs a = {x, nullptr, y, film, nullptr, partial, s.T, s.C, width, {}};
  const int pack = PackOf(s, a);
  if (Status status = Rows(Pass::kForward, s, a, pack, stream); !status.ok()) return status;
  if (s.B * s.G == 0) return Status::Ok();
  return Launch(kName, n2m_combine_film_group_sums, dim3(static_cast<unsigned>(s.B * s.G)),
                dim3(kThreads), 0, stream, partial, sums, TilesOf(s, pack).chunks, s.C, width);
}

Status CombineFilmBwd(const CombineFilmShape& s, const void* x, const float* emb,
                      const float* kernel, const float* bias, const void* dy, const float* dsums,
                      void* dx, float* dfilm, float* scratch, void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  float* const film = scratch;
  float* const partial = scratch + s.B * 2 * s.C;
  const int64_t width = s.G > 0 ? s.C / s.G : 1;
  if (Status status = LaunchColumns({bias, emb, kernel, film, s.B, s.E, 2 * s.C, 0}, stream);
      !status.ok()) {
    return status;
  }
  const RowsArgs a = {x, dy, dx, film, dsums, partial, s.T, s.C, width, {}};
  const int pack = PackOf(s, a);
  if (Status status = Rows(Pass::kBackward, s, a, pack, stream); !status.ok()) return status;
  const int64_t chunks = TilesOf(s, pack).chunks;
  return LaunchColumns({nullptr, nullptr, partial, dfilm, s.B, chunks, 2 * s.C, chunks * 2 * s.C},
                       stream);
}

Status CombineFilmBwdParams(const CombineFilmShape& s, const float* emb, const float* kernel,
                            const float* dfilm, float* demb, float* dkernel, float* dbias,
                            void* stream) {
  if (Status status = Check(s); !status.ok()) return status;
  const int64_t columns = 2 * s.C;
  if (columns > 0) {
    const dim3 grid(static_cast<unsigned>((s.E + 1) * CeilDiv(columns, kThreads)));
    Status status = Launch(kName, n2m_combine_film_dkernel, grid, dim3(kThreads), 0, stream, emb,
                           dfilm, dkernel, dbias, s.B, s.E, columns);
    if (!status.ok()) return status;
  }
  if (s.B * s.E == 0) return Status::Ok();
  const dim3 grid(static_cast<unsigned>(CeilDiv(s.B * s.E, kThreads / kWarp)));
  return Launch(kName, n2m_combine_film_demb, grid, dim3(kThreads), 0, stream, kernel, dfilm, demb,
                s.B, s.E, columns);
}

}  // namespace n2m::cuda
