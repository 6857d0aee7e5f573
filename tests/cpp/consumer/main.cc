// Runs combine_film through the C++ API, at every size around the vector lengths and with
// misaligned pointers, alone and on a pool of threads, and compares with the formula in double.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "noise2music/noise2music.h"

#if __has_include(<Python.h>) || __has_include(<xla/ffi/api/ffi.h>)
#error "the C++ API must not need Python or XLA: neither may be in the include path"
#endif

namespace {

// A thread a task, joined at the end: the least that a real executor does.
class Threads final : public n2m::Executor {
 public:
  ~Threads() override {
    for (std::thread& thread : threads_) thread.join();
  }
  int num_threads() const override { return 3; }
  void Schedule(std::function<void()> task) override {
    std::lock_guard<std::mutex> lock(mutex_);
    threads_.emplace_back(std::move(task));
  }

 private:
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

// An array whose data begins `offset` floats behind an aligned address.
struct Misaligned {
  Misaligned(int64_t n, int64_t offset, uint32_t seed)
      : memory(n + offset + 1), data(memory.data() + offset) {
    for (int64_t i = 0; i < n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      data[i] = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
  }
  std::vector<float> memory;
  float* data;
};

bool Close(double got, double want, const char* what, const n2m::CombineFilmShape& s) {
  if (std::fabs(got - want) <= 1e-5 * (1.0 + std::fabs(want))) return true;
  std::fprintf(stderr, "%s: got %.9g, want %.9g (B=%lld T=%lld C=%lld E=%lld G=%lld)\n", what, got,
               want, static_cast<long long>(s.B), static_cast<long long>(s.T),
               static_cast<long long>(s.C), static_cast<long long>(s.E),
               static_cast<long long>(s.G));
  return false;
}

bool Check(const n2m::CombineFilmShape& s, int64_t offset, n2m::Executor& executor) {
  const Misaligned x(s.B * s.T * s.C, offset, 1), emb(s.B * s.E, offset, 2);
  const Misaligned kernel(s.E * 2 * s.C, offset, 3), bias(2 * s.C, offset, 4);
  Misaligned y(s.B * s.T * s.C, offset, 5), sums(s.B * s.G * 2, offset, 6);
  std::vector<float> scratch(static_cast<size_t>(n2m::CombineFilmFwdScratch(s)) + 1);
  const n2m::Status status = n2m::CombineFilmFwd(s, x.data, emb.data, kernel.data, bias.data,
                                                 y.data, sums.data, scratch.data(), executor);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return false;
  }
  for (int64_t b = 0; b < s.B; ++b) {
    std::vector<double> sum(s.G), squares(s.G);
    for (int64_t c = 0; c < s.C; ++c) {
      double scale = bias.data[c], shift = bias.data[s.C + c];
      for (int64_t e = 0; e < s.E; ++e) {
        scale += static_cast<double>(emb.data[b * s.E + e]) * kernel.data[e * 2 * s.C + c];
        shift += static_cast<double>(emb.data[b * s.E + e]) * kernel.data[e * 2 * s.C + s.C + c];
      }
      for (int64_t t = 0; t < s.T; ++t) {
        const int64_t at = (b * s.T + t) * s.C + c;
        if (!Close(y.data[at], x.data[at] * (1.0 + scale) + shift, "y", s)) return false;
        if (s.G > 0) {
          sum[c / (s.C / s.G)] += y.data[at];
          squares[c / (s.C / s.G)] += static_cast<double>(y.data[at]) * y.data[at];
        }
      }
    }
    for (int64_t g = 0; g < s.G; ++g) {
      if (!Close(sums.data[(b * s.G + g) * 2], sum[g], "sum", s)) return false;
      if (!Close(sums.data[(b * s.G + g) * 2 + 1], squares[g], "sum of squares", s)) return false;
    }
  }
  return true;
}

}  // namespace

int main() {
  for (int64_t C : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65}) {
    for (int64_t offset : {0, 1, 3}) {
      n2m::CombineFilmShape s;
      s.B = 2;
      s.T = 33;
      s.C = C;
      s.E = 5;
      for (int64_t G : {int64_t{0}, int64_t{1}, C}) {
        s.G = G;
        if (!Check(s, offset, n2m::SerialExecutor())) return 1;
      }
    }
  }
  n2m::CombineFilmShape s;
  s.B = 3;
  s.T = 2049;
  s.C = 64;
  s.E = 7;
  s.G = 8;
  {
    Threads threads;
    if (!Check(s, 0, threads)) return 1;
  }
  s.G = 7;
  float none = 0;
  const n2m::Status refused = n2m::CombineFilmFwd(s, &none, &none, &none, &none, &none, &none,
                                                  &none, n2m::SerialExecutor());
  if (refused.ok()) {
    std::fprintf(stderr, "7 groups of 64 channels must be refused\n");
    return 1;
  }
  std::printf("noise2music %s: ok; %s\n", NOISE2MUSIC_VERSION, refused.message().c_str());
  return 0;
}
