// What the tests of the launchers share: random numbers, arrays that may be misaligned, and the
// comparison with float64. No test framework: a test is a program that returns 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "noise2music/noise2music.h"

namespace n2m_test {

using n2m::DType;

inline int failures = 0;
inline int checks = 0;

inline void Fail(const std::string& what) {
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

inline void Expect(bool right, const std::string& what) {
  ++checks;
  if (!right) Fail(what);
}

// At the end of main: `return n2m_test::Report("combine_film");`
inline int Report(const char* name) {
  std::printf("%s: %d checks, %d failed\n", name, checks, failures);
  return failures == 0 ? 0 : 1;
}

// PCG32 (O'Neill 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 1442695040888963407u) {}
  uint32_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const uint32_t mixed = static_cast<uint32_t>(((state_ >> 18) ^ state_) >> 27);
    const int turn = static_cast<int>(state_ >> 59);
    return mixed >> turn | mixed << (-turn & 31);
  }
  // In [low, high].
  int64_t Int(int64_t low, int64_t high) { return low + Next() % (high - low + 1); }
  bool Coin() { return Next() & 1; }
  // Of mean 0 and deviation 1, in [-6, 6].
  double Normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += Next() * 0x1p-32;
    return sum;
  }
  int64_t DivisorOf(int64_t n) {
    for (;;) {
      const int64_t d = Int(1, n);
      if (n % d == 0) return d;
    }
  }

 private:
  uint64_t state_;
};

inline uint16_t ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// n values of a dtype whose first one lies `offset` elements behind an aligned address. The
// allocation ends with the last value, so that the address sanitizer sees one step too far.
class Array {
 public:
  Array(int64_t n, DType dtype = DType::kFloat32, int64_t offset = 0)
      : n_(n),
        dtype_(dtype),
        offset_(offset * Size()),
        bytes_(static_cast<char*>(::operator new(offset_ + n * Size(), kLine))) {
    std::memset(bytes_.get(), 0xff, offset_ + n * Size());  // NaN where nothing was written
  }
  // Normal numbers times `scale`, rounded to the dtype.
  static Array Normal(Random& random, int64_t n, DType dtype = DType::kFloat32, int64_t offset = 0,
                      double scale = 1) {
    Array a(n, dtype, offset);
    for (int64_t i = 0; i < n; ++i) a.Set(i, scale * random.Normal());
    return a;
  }

  int64_t size() const { return n_; }
  void* data() { return bytes_.get() + offset_; }
  const void* data() const { return bytes_.get() + offset_; }
  float* floats() { return static_cast<float*>(data()); }
  const float* floats() const { return static_cast<const float*>(data()); }

  double operator[](int64_t i) const {
    const char* at = bytes_.get() + offset_ + i * Size();
    uint32_t bits = 0;
    if (dtype_ == DType::kFloat32) {
      std::memcpy(&bits, at, 4);
    } else {
      uint16_t half;
      std::memcpy(&half, at, 2);
      bits = static_cast<uint32_t>(half) << 16;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  void Set(int64_t i, double value) {
    char* at = bytes_.get() + offset_ + i * Size();
    const float single = static_cast<float>(value);
    const uint16_t half = ToBFloat16(single);
    if (dtype_ == DType::kFloat32) {
      std::memcpy(at, &single, 4);
    } else {
      std::memcpy(at, &half, 2);
    }
  }
  bool SameBits(const Array& other) const {
    return n_ == other.n_ && std::memcmp(data(), other.data(), n_ * Size()) == 0;
  }
  std::vector<double> Wide() const {
    std::vector<double> values(n_);
    for (int64_t i = 0; i < n_; ++i) values[i] = (*this)[i];
    return values;
  }

 private:
  static constexpr std::align_val_t kLine{64};  // as XLA aligns its arrays
  struct Free {
    void operator()(char* bytes) const { ::operator delete(bytes, kLine); }
  };
  int64_t Size() const { return dtype_ == DType::kFloat32 ? 4 : 2; }
  int64_t n_;
  DType dtype_;
  int64_t offset_;
  std::unique_ptr<char[], Free> bytes_;
};

// Largest error over the largest exact value: float32 kernels add in float32 (Toom-Cook included,
// whose bound is 3e-5), bfloat16 ones round once at the end.
inline double Tolerance(DType dtype) { return dtype == DType::kFloat32 ? 3e-5 : 1e-2; }

inline void ExpectClose(const Array& got, const std::vector<double>& want, double tolerance,
                        const std::string& what) {
  ++checks;
  double scale = 1e-30, worst = 0;
  int64_t at = 0;
  for (double w : want) scale = std::max(scale, std::fabs(w));
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - want[i]);
    if (!(error <= worst)) {  // NaN too
      worst = error;
      at = i;
      if (error != error) break;
    }
  }
  if (worst / scale <= tolerance) return;
  char text[160];
  std::snprintf(text, sizeof(text), ": [%lld] got %.9g, want %.9g, error %.2g of the largest",
                static_cast<long long>(at), got[at], want[at], worst / scale);
  Fail(what + text);
}

inline void ExpectOk(const n2m::Status& status, const std::string& what) {
  Expect(status.ok(), what + ": " + status.message());
}
// A refusal that names the op and says what must be.
inline void ExpectRefused(const n2m::Status& status, const std::string& op,
                          const std::string& what) {
  Expect(!status.ok() && status.message().rfind("n2m." + op + ": ", 0) == 0 &&
             status.message().find("must be") != std::string::npos,
         what + " must be refused, got '" + status.message() + "'");
}

template <class... Sizes>
std::string Name(const char* what, Sizes... sizes) {
  std::string text = what;
  ((text += " " + std::to_string(sizes)), ...);
  return text;
}

constexpr int64_t kHuge = int64_t{1} << 40;

}  // namespace n2m_test
