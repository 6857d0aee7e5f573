// Runs one launcher again and again at the sizes given, for a profiler to look at:
//   kernel_driver conv1d_block B T C K D       kernel_driver combine_film B T C E G
//   kernel_driver fft_upsample B T C UP DOWN   kernel_driver ancestral_step B T C
//   kernel_driver combine_film_bwd B T C E G   the gradient of x
//   kernel_driver conv1d_block_bwd B T C K D   the gradient of x
//   kernel_driver conv1d_block_bwd_weight B T C K D
//   kernel_driver copy N                       of N floats: what a kernel at the speed of memory
//   meets
// Options behind the sizes: --threads N (default: all), --calls N (default: 100), --stride N
// (of a convolution), --bfloat16.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "check.h"
#include "noise2music/executor.h"

namespace {

using namespace n2m_test;
using Call = std::function<n2m::Status()>;

struct Options {
  std::vector<int64_t> sizes;
  int threads = 0, calls = 100, stride = 1;
  DType dtype = DType::kFloat32;
};

// What a call reads and writes, kept alive for the closures.
std::vector<std::unique_ptr<Array>> arrays;
Array& Make(int64_t n, DType dtype = DType::kFloat32) {
  static Random random(1);
  arrays.push_back(std::make_unique<Array>(Array::Normal(random, n, dtype, 0, 0.1)));
  return *arrays.back();
}

n2m::CombineFilmShape FilmShape(const Options& o) {
  n2m::CombineFilmShape s;
  s.B = o.sizes[0];
  s.T = o.sizes[1];
  s.C = o.sizes[2];
  s.E = o.sizes[3];
  s.G = o.sizes[4];
  s.dtype = o.dtype;
  return s;
}

Call CombineFilm(const Options& o, n2m::Executor& pool) {
  const n2m::CombineFilmShape s = FilmShape(o);
  Array &x = Make(s.B * s.T * s.C, s.dtype), &y = Make(x.size(), s.dtype);
  Array &emb = Make(s.B * s.E), &kernel = Make(s.E * 2 * s.C), &bias = Make(2 * s.C);
  Array &sums = Make(s.B * s.G * 2), &scratch = Make(n2m::CombineFilmFwdScratch(s));
  return [=, &x, &y, &emb, &kernel, &bias, &sums, &scratch, &pool] {
    return n2m::CombineFilmFwd(s, x.data(), emb.floats(), kernel.floats(), bias.floats(), y.data(),
                               sums.floats(), scratch.floats(), pool);
  };
}

Call CombineFilmInput(const Options& o, n2m::Executor& pool) {
  const n2m::CombineFilmShape s = FilmShape(o);
  Array &x = Make(s.B * s.T * s.C, s.dtype), &dy = Make(x.size(), s.dtype);
  Array &dx = Make(x.size(), s.dtype), &dsums = Make(s.B * s.G * 2), &dfilm = Make(s.B * 2 * s.C);
  Array &emb = Make(s.B * s.E), &kernel = Make(s.E * 2 * s.C), &bias = Make(2 * s.C);
  Array& scratch = Make(n2m::CombineFilmBwdScratch(s));
  return [=, &x, &dy, &dx, &dsums, &dfilm, &emb, &kernel, &bias, &scratch, &pool] {
    return n2m::CombineFilmBwd(s, x.data(), emb.floats(), kernel.floats(), bias.floats(), dy.data(),
                               dsums.floats(), dx.data(), dfilm.floats(), scratch.floats(), pool);
  };
}

enum class Pass { kForward, kInput, kWeight };

Call Conv1dBlock(const Options& o, n2m::Executor& pool, Pass pass) {
  n2m::Conv1dBlockShape s;
  s.batch = o.sizes[0];
  s.time = o.sizes[1];
  s.channels = o.sizes[2];
  s.kernel = o.sizes[3];
  s.out_channels = o.sizes[4];
  s.stride = o.stride;
  s.dtype = o.dtype;
  const int threads = pool.num_threads();
  Array &x = Make(s.batch * s.time * s.channels, s.dtype), &bias = Make(s.out_channels);
  Array& weight = Make(s.kernel * s.channels * s.out_channels);
  Array& y = Make(s.batch * s.time * s.out_channels, s.dtype);
  n2m::Conv1dBlockInputs in;
  in.x = x.data();
  in.weight = weight.data();
  in.bias = bias.floats();
  n2m::Conv1dBlockCotangents cotangents;
  cotangents.dy = y.data();
  if (pass == Pass::kInput) {
    n2m::Conv1dBlockGradients out;
    out.dx = Make(x.size(), s.dtype).data();
    Array& scratch = Make(n2m::Conv1dBlockBwdScratch(s, threads));
    return [=, &scratch, &pool] {
      return n2m::Conv1dBlockBwd(s, in, cotangents, out, scratch.data(), pool);
    };
  }
  if (pass == Pass::kWeight) {
    Array &dweight = Make(weight.size()), &dbias = Make(bias.size());
    Array& scratch = Make(n2m::Conv1dBlockBwdWeightScratch(s, threads));
    return [=, &dweight, &dbias, &scratch, &pool] {
      return n2m::Conv1dBlockBwdWeight(s, in, cotangents, dweight.floats(), dbias.floats(), nullptr,
                                       scratch.data(), pool);
    };
  }
  Array& scratch = Make(n2m::Conv1dBlockFwdScratch(s, threads));
  return [=, &y, &scratch, &pool] {
    return n2m::Conv1dBlockFwd(s, in, y.data(), nullptr, scratch.data(), pool);
  };
}
Call Conv1dBlockForward(const Options& o, n2m::Executor& pool) {
  return Conv1dBlock(o, pool, Pass::kForward);
}
Call Conv1dBlockInput(const Options& o, n2m::Executor& pool) {
  return Conv1dBlock(o, pool, Pass::kInput);
}
Call Conv1dBlockWeight(const Options& o, n2m::Executor& pool) {
  return Conv1dBlock(o, pool, Pass::kWeight);
}

Call FftUpsample(const Options& o, n2m::Executor& pool) {
  n2m::FftUpsampleShape s;
  s.B = o.sizes[0];
  s.T = o.sizes[1];
  s.C = o.sizes[2];
  s.up = o.sizes[3];
  s.down = o.sizes[4];
  s.dtype = o.dtype;
  Array &x = Make(s.B * s.T * s.C, s.dtype), &y = Make(x.size() * s.up / s.down, s.dtype);
  Array& scratch = Make(n2m::FftUpsampleScratch(s, pool.num_threads()));
  return [=, &x, &y, &scratch, &pool] {
    return n2m::FftUpsampleFwd(s, x.data(), y.data(), scratch.floats(), pool);
  };
}

Call AncestralStep(const Options& o, n2m::Executor& pool) {
  n2m::AncestralStepShape s;
  s.B = o.sizes[0];
  s.T = o.sizes[1];
  s.C = o.sizes[2];
  s.eps_dtype = o.dtype;
  const int64_t n = s.B * s.T * s.C;
  Array &x_t = Make(n), &cond = Make(n, s.eps_dtype), &uncond = Make(n, s.eps_dtype);
  Array &z = Make(n), &x_s = Make(n), &x_0 = Make(n);
  Array& scratch = Make(n2m::AncestralStepScratch(s));
  return [=, &x_t, &cond, &uncond, &z, &x_s, &x_0, &scratch, &pool] {
    const float coefficients[] = {3, 1.41f, 1, 0.9f, 0.1f, 0.4f, 99.5f, 1};
    return n2m::AncestralStepFwd(s, x_t.floats(), cond.data(), uncond.data(), z.floats(),
                                 coefficients, x_s.floats(), x_0.floats(), scratch.floats(), pool);
  };
}

Call Copy(const Options& o, n2m::Executor& pool) {
  const int64_t n = o.sizes[0];
  Array &x = Make(n), &y = Make(n);
  return [=, &x, &y, &pool] {
    n2m::ParallelFor(pool, n, 32 << 10, [&](int64_t begin, int64_t end) {
      std::copy(x.floats() + begin, x.floats() + end, y.floats() + begin);
    });
    return n2m::Status::Ok();
  };
}

struct Op {
  const char* name;
  size_t sizes;
  Call (*make)(const Options&, n2m::Executor&);
};
constexpr Op kOps[] = {{"combine_film", 5, CombineFilm},
                       {"combine_film_bwd", 5, CombineFilmInput},
                       {"conv1d_block", 5, Conv1dBlockForward},
                       {"conv1d_block_bwd", 5, Conv1dBlockInput},
                       {"conv1d_block_bwd_weight", 5, Conv1dBlockWeight},
                       {"fft_upsample", 5, FftUpsample},
                       {"ancestral_step", 3, AncestralStep},
                       {"copy", 1, Copy}};

int Usage() {
  std::fprintf(
      stderr,
      "usage: kernel_driver conv1d_block[_bwd[_weight]] B T C K D | combine_film[_bwd] B T C E "
      "G | fft_upsample "
      "B T C UP DOWN | ancestral_step B T C | copy N  [--threads N] [--calls N] [--stride N] "
      "[--bfloat16]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--bfloat16") {
      o.dtype = DType::kBFloat16;
    } else if (int* value = word == "--threads"  ? &o.threads
                            : word == "--calls"  ? &o.calls
                            : word == "--stride" ? &o.stride
                                                 : nullptr;
               value != nullptr && i + 1 < argc) {
      *value = std::atoi(argv[++i]);
    } else if (word[0] >= '0' && word[0] <= '9') {
      o.sizes.push_back(std::atoll(argv[i]));
    } else {
      return Usage();
    }
  }
  const auto pool = n2m::MakeThreadPool(o.threads);
  for (const Op& op : kOps) {
    if (argc < 2 || std::string(op.name) != argv[1] || o.sizes.size() != op.sizes) continue;
    const Call call = op.make(o, *pool);
    std::vector<double> milliseconds;
    for (int i = 0; i < std::max(o.calls, 1); ++i) {
      const auto start = std::chrono::steady_clock::now();
      if (const n2m::Status status = call(); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.message().c_str());
        return 1;
      }
      const auto passed = std::chrono::steady_clock::now() - start;
      milliseconds.push_back(std::chrono::duration<double, std::milli>(passed).count());
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    std::printf("%s on %d threads: median %.3f ms, least %.3f ms of %zu calls\n", op.name,
                pool->num_threads(), milliseconds[milliseconds.size() / 2], milliseconds[0],
                milliseconds.size());
    return 0;
  }
  return Usage();
}
