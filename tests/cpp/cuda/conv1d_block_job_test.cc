// The index arithmetic of conv1d_block on CUDA: plain functions, tried for every small case.
#include "kernels/conv1d_block/conv1d_block_cuda_jobs.h"

#include <set>
#include <tuple>

#include "tests/cpp/kernels/check.h"

namespace {

using namespace n2m_test;
using namespace n2m::conv1d_block_cuda;
using n2m::Conv1dBlockShape;
namespace ptx = n2m::ptx;

void TestFastDivisor() {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const int divisor = static_cast<int>(random.Next() >> (1 + random.Int(0, 30))) + 1;
    for (int n : {0, 1, divisor - 1, divisor, static_cast<int>(random.Next() >> 1), 0x7fffffff}) {
      const FastDivisor d(divisor);
      const int q = d.Quotient(n);
      Expect(q == n / divisor && d.Remainder(n, q) == n % divisor, Name("divide", n, divisor));
    }
  }
}

void TestDescriptor() {
  const Descriptor d = {0x12340, 0x870, 0x80, 0};
  const uint64_t bits = Encode(d);
  Expect((bits & 0x3fff) == 0x1234 && (bits >> 16 & 0x3fff) == 0x87 && (bits >> 32 & 0x3fff) == 8 &&
             bits >> 62 == 0,
         "fields of the descriptor");
  const Descriptor back = Decode(bits);
  Expect(back.start == d.start && back.leading == d.leading && back.stride == d.stride, "decode");
  // What wgmma finds through it is what the loader put there, moved by any number of rows.
  for (int shift = 0; shift < kTileTaps; ++shift) {
    const int stride = PlaneStride(64 + kTileTaps, 8);
    const uint32_t base = 4096, moved = base + shift * 16;
    for (int row = 0; row < 64; ++row) {
      for (int k = 0; k < 16; ++k) {
        const uint32_t kept = base + ((k / 8) * stride + row + shift) * 16 + k % 8 * 2;
        Expect(ptx::WgmmaElement(Decode(PlanesKMajor(moved, stride)), false, row, k) == kept,
               Name("K-major", row, k, shift));
        const uint32_t turned = base + ((row / 8) * stride + k + shift) * 16 + row % 8 * 2;
        Expect(ptx::WgmmaElement(Decode(PlanesMnMajor(moved, stride)), true, row, k) == turned,
               Name("MN-major", row, k, shift));
      }
    }
  }
}

// Eight threads in a row write eight 16-byte units: to eight different groups of four banks.
void TestBanks() {
  for (int planes : {2, 4, 8, 16, 32}) {
    for (int rows = 1; rows < 300; ++rows) {
      const int stride = PlaneStride(rows, planes);
      std::set<int> groups;
      for (int thread = 0; thread < 8; ++thread) {
        groups.insert((thread % planes * stride + thread / planes) % 8);
      }
      Expect(stride >= rows && stride < rows + 8 && groups.size() == 8,
             Name("banks", planes, rows));
    }
  }
}

ConvJob JobOf(int taps, int stride, int channels, int residual) {
  ConvJob job;
  job.operand[0].taps = taps;
  job.operand[0].stride = stride;
  job.operand[0].channels = channels;
  if (residual > 0) {
    job.operands = 2;
    job.operand[1].taps = 1;
    job.operand[1].channels = residual;
  }
  return job;
}

void TestSteps() {
  for (int taps : {1, 2, 3, 7, 9, 16, 17, 40}) {
    for (int stride : {1, 2, 3, 5, 50}) {
      for (int residual : {0, 20}) {
        const ConvJob job = JobOf(taps, stride, 40, residual);
        std::set<std::tuple<int, int, int>> seen;
        Step step, ahead;
        int tiles = 0;
        for (int s = 0; s < job.Steps(16); ++s) {
          const Operand& op = job.operand[step.operand];
          const std::string name = Name("step", taps, stride, residual, s);
          Expect(seen.insert({step.operand, step.chunk, step.WeightTap(op)}).second, name);
          Expect(step.WeightTap(op) < op.taps, name);
          if (step.FirstOfTile()) {
            Expect(step.x == tiles && ahead.x == tiles && ahead.chunk == step.chunk &&
                       ahead.phase == step.phase && ahead.tap == step.tap,
                   name);
            ++tiles;
            ahead.NextX(job, 16);
          }
          Expect(step.x == tiles - 1 && step.Shift() < step.TileTaps(op), name);
          Expect(step.LastOfTile(op) == (step.Shift() + 1 == step.TileTaps(op)), name);
          // Output row u reads shared row u + shift, which holds this row of x (pad left out).
          const int first = step.WeightTap(op) - step.Shift() * op.stride;
          for (int u : {0, 5}) {
            const int row = (u + step.Shift()) * op.stride + first;
            Expect(row == u * op.stride + step.WeightTap(op), name);
            Expect(u + step.Shift() < op.TileRows(6), name);
          }
          step.Next(job, 16);
        }
        Expect(step.operand == job.operands, Name("the last step", taps, stride, residual));
      }
    }
  }
}

void TestTiles() {
  for (int period = kMinPeriod; period < 300; period += 3) {
    for (int block : Wgmma::kBlockM) {
      int most = 0;
      for (int tile = 0; tile * block < 7 * period; ++tile) {
        const int first = tile * block / period, last = (tile * block + block - 1) / period;
        most = std::max(most, last - first + 1);
      }
      Expect(most <= TileClips(block, period), Name("clips a tile", period, block));
      Expect(RowTiles(7, period, block) * block >= 7 * period, Name("tiles", period, block));
    }
    for (int v = 0; v < 4 * period; v += kSlab) {
      Expect((v + kSlab - 1) / period - v / period + 1 <= kSlabClips, Name("clips a slab", v));
    }
  }
  // No output of a clip reads rows of the next one.
  for (int rows : {1, 8, 30}) {
    for (int taps = 1; taps < 20; ++taps) {
      for (int stride : {1, 2, 5}) {
        Expect(rows - 1 + (taps - 1) / stride < Period(rows, taps, stride), Name("period", taps));
      }
    }
  }
}

void TestPlans() {
  for (int64_t K = 1; K < 60; ++K) {
    for (int64_t stride = 1; stride < 8; ++stride) {
      Conv1dBlockShape s;
      s.batch = 8, s.time = 1472, s.channels = 512, s.out_channels = 512;
      s.kernel = K, s.stride = stride, s.dtype = s.weight_dtype = n2m::DType::kBFloat16;
      Arena none(nullptr);
      const Tables tables(none, s, false);
      const PackedWeight weight(none, s, nullptr, 0);
      const ConvJob job = ForwardJob(s, {}, tables, weight, {}, nullptr);
      for (bool transposed : {false, true}) {
        const Plan hopper = PlanConv(job, true, transposed, {9, 132});
        Expect(hopper.kernel == Kernel::kWgmma && hopper.shared_bytes <= 227 << 10,
               Name("shared memory on Hopper", K, stride, hopper.shared_bytes));
        for (bool half : {false, true}) {  // 99 KiB: Ada and the small Ampere
          const Plan any = PlanConv(job, half, transposed, {8, 108});
          Expect(any.kernel == (half ? Kernel::kMmaSync : Kernel::kFfma), "Ampere's kernel");
          Expect(any.shared_bytes <= 99 << 10, Name("shared memory", K, stride, any.shared_bytes));
        }
      }
    }
  }
  // The rows of a tile fit the clips into whole waves of blocks; very short clips, which have fewer
  // tiles than there are multiprocessors, split the reduction.
  const auto plan = [](int time, int channels, int taps = 7) {
    ConvJob job = JobOf(taps, 1, channels, 0);
    job.batch = 8;
    job.rows = time;
    job.results.out_channels = channels;
    job.period = FastDivisor(Period(time, taps, 1));
    return PlanConv(job, true, false, {9, 132});
  };
  Expect(plan(23552, 256).block_m >= 192 && plan(23552, 256).splits == 1, "plan of a long clip");
  Expect(plan(368, 768).block_m == 192 && plan(368, 768).splits == 1, "96 tiles in one wave");
  Expect(plan(248, 512, 9).block_m == 64, "128 tiles in one wave");
  Expect(plan(62, 1024, 9).splits > 1 && plan(23, 1024).splits > 1, "plan of short clips");
}

// The shares of a split reduction are the whole sequence, cut between chunks.
void TestShares() {
  for (int splits = 1; splits <= kMostSplits; ++splits) {
    for (int residual : {0, 20, 200}) {
      ConvJob job = JobOf(7, 3, 100, residual);
      job.splits = splits;
      Step step;
      int steps = 0;
      for (int split = 0; split < splits; ++split) {
        const Share share(job, 16, split);
        Step mine = share.first;
        for (int s = 0; s < share.steps; ++s) {
          Expect(mine.operand == step.operand && mine.chunk == step.chunk &&
                     mine.phase == step.phase && mine.tap == step.tap && share.Holds(job, mine, 16),
                 Name("share", splits, residual, split, s));
          mine.Next(job, 16);
          step.Next(job, 16);
        }
        Expect(!share.Holds(job, mine, 16), Name("end of a share", splits, residual, split));
        steps += share.steps;
      }
      Expect(steps == job.Steps(16), Name("steps of all shares", splits, residual));
    }
  }
}

}  // namespace

int main() {
  TestFastDivisor();
  TestDescriptor();
  TestBanks();
  TestSteps();
  TestTiles();
  TestPlans();
  TestShares();
  return Report("jobs of conv1d_block on CUDA");
}
