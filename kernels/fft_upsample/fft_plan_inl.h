// How plans are made. Included by fft_upsample_cpu.cc alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/fft_upsample/fft_passes.h"
#include "kernels/fft_upsample/fft_plan.h"

namespace n2m::fft {

constexpr double kPi = 3.14159265358979323846;
constexpr size_t kCachedResamplers = 8;

struct Unit {
  double re, im;
};

// e^{-2 pi i k / n} as a product of two short tables: exact to about 3e-16.
class Roots {
 public:
  explicit Roots(int64_t n) : n_(n), low_size_(1) {
    while (low_size_ * low_size_ < n) low_size_ *= 2;
    low_.reserve(static_cast<size_t>(low_size_));
    for (int64_t k = 0; k < low_size_; ++k) low_.push_back(Exact(k));
    for (int64_t k = 0; k < n; k += low_size_) high_.push_back(Exact(k));
  }

  Unit operator()(int64_t k) const {  // 0 <= k < n
    const Unit a = high_[static_cast<size_t>(k / low_size_)],
               b = low_[static_cast<size_t>(k % low_size_)];
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }

 private:
  Unit Exact(int64_t k) const {
    const double angle = -2.0 * kPi * static_cast<double>(k) / static_cast<double>(n_);
    return {std::cos(angle), std::sin(angle)};
  }

  int64_t n_, low_size_;
  std::vector<Unit> low_, high_;
};

// Factors in pass order: big primes first, so that the stride is a whole number of vectors soon.
inline std::vector<int64_t> Radices(int64_t n) {
  std::vector<int64_t> factors;
  int64_t twos = 0;
  for (; n % 2 == 0; n /= 2) ++twos;
  for (int64_t p = 3; p * p <= n; p += 2) {
    for (; n % p == 0; n /= p) factors.push_back(p);
  }
  if (n > 1) factors.push_back(n);
  std::sort(factors.rbegin(), factors.rend());
  if (twos % 3 == 1 && twos >= 4) {
    factors.insert(factors.end(), {4, 4});
    twos -= 4;
  } else if (twos % 3 != 0) {
    factors.push_back(twos % 3 == 1 ? 2 : 4);
    twos -= twos % 3;
  }
  factors.insert(factors.end(), static_cast<size_t>(twos / 3), 8);
  return factors;
}

inline bool HasButterfly(int64_t radix) {
  return radix == 2 || radix == 3 || radix == 4 || radix == 5 || radix == 8;
}

inline void Push(const Unit& unit, std::vector<float>* re, std::vector<float>* im) {
  re->push_back(static_cast<float>(unit.re));
  im->push_back(static_cast<float>(unit.im));
}

inline void AddPasses(const Roots& roots, const std::vector<int64_t>& radices, Plan* plan) {
  int64_t length = plan->n / plan->lanes, stride = plan->lanes;
  for (int64_t radix : radices) {
    Pass pass;
    pass.radix = radix;
    pass.length = length;
    pass.stride = stride;
    const int64_t step = plan->n / length;  // e^{-2 pi i / length} is the root of index `step`
    for (int64_t j = 0; j < length / radix; ++j) {
      for (int64_t k = 1; k < radix; ++k) {
        const Unit unit = roots(j * k % length * step);
        pass.twiddle.push_back(static_cast<float>(unit.re));
        pass.twiddle.push_back(static_cast<float>(unit.im));
      }
    }
    if (!HasButterfly(radix)) {
      for (int64_t m = 0; m < radix; ++m) {
        const double angle = 2.0 * kPi * static_cast<double>(m) / static_cast<double>(radix);
        pass.circle.push_back(static_cast<float>(std::cos(angle)));
        pass.circle.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    plan->passes.push_back(std::move(pass));
    length /= radix;
    stride *= radix;
  }
}

N2M_MULTI_ISA(Transform, TransformArgs)

// The least 2^a m >= n with a >= 6 and m a small product of 3 and 5.
inline int64_t SmoothLength(int64_t n) {
  int64_t best = 64;
  while (best < n) best *= 2;
  for (const int64_t odd : {3, 5, 9, 15, 25, 27, 45}) {
    int64_t length = 64 * odd;
    while (length < n) length *= 2;
    best = std::min(best, length);
  }
  return best;
}

inline void AddBluestein(Plan* plan) {
  const int64_t n = plan->n;
  const int64_t size = SmoothLength(2 * n - 1);
  plan->inner = MakePlan(size);
  // t^2 modulo 2n in integers: the angle itself would lose all its digits.
  const Roots roots(2 * n);
  const size_t floats = static_cast<size_t>(size);
  std::vector<float> re(floats, 0.0f), im(floats, 0.0f), other_re(floats), other_im(floats);
  for (int64_t t = 0; t < n; ++t) {
    const int64_t index = static_cast<int64_t>(static_cast<__int128>(t) * t % (2 * n));
    const Unit unit = roots(index);
    Push(unit, &plan->chirp_re, &plan->chirp_im);
    for (const int64_t at : {t, (size - t) % size}) {
      re[static_cast<size_t>(at)] = static_cast<float>(unit.re);
      im[static_cast<size_t>(at)] = static_cast<float>(-unit.im);
    }
  }
  bool in_b = false;
  Transform_Run(
      {plan->inner.get(), {re.data(), im.data()}, {other_re.data(), other_im.data()}, &in_b});
  plan->filter_re = in_b ? std::move(other_re) : std::move(re);
  plan->filter_im = in_b ? std::move(other_im) : std::move(im);
  for (auto* filter : {&plan->filter_re, &plan->filter_im}) {
    for (float& value : *filter) value /= static_cast<float>(size);
  }
}

inline std::shared_ptr<const Plan> MakePlan(int64_t n) {
  auto plan = std::make_shared<Plan>();
  plan->n = n;
  const bool split = n % kLanes == 0 && n >= kLanes * kLanes;
  plan->lanes = split ? kLanes : 1;
  const std::vector<int64_t> radices = Radices(n / plan->lanes);
  if (!radices.empty() && radices.front() > kLargestRadix) {
    AddBluestein(plan.get());
    return plan;
  }
  const Roots roots(n);
  AddPasses(roots, radices, plan.get());
  if (split) {
    for (int64_t l = 1; l < kLanes; ++l) {
      for (int64_t k = 0; k < n / kLanes; ++k) Push(roots(l * k), &plan->join_re, &plan->join_im);
    }
  }
  return plan;
}

// weight(k) / n e^{2 pi i k s down / (up n)}; k signed, 0 above the new Nyquist frequency.
inline Unit ShiftFactor(const Resampler& r, const Roots& roots, int64_t k, int64_t phase) {
  const int64_t modulus = r.up * r.n, distance = std::min(k, r.n - k);
  if (r.down > r.up && 2 * distance > r.up * r.part_n) return {0.0, 0.0};
  const Unit unit =
      roots(static_cast<int64_t>(static_cast<__int128>(distance) * (phase * r.down) % modulus));
  const double scale = 1.0 / static_cast<double>(r.n);
  // The bin at n / 2 stands for both signs, half each.
  if (2 * distance == r.n) return {unit.re * scale, 0.0};
  return {unit.re * scale, (k == distance ? -unit.im : unit.im) * scale};
}

inline std::shared_ptr<const Resampler> MakeResampler(int64_t n, int64_t up, int64_t down) {
  auto r = std::make_shared<Resampler>();
  r->n = n;
  r->up = up;
  r->down = down;
  r->part_n = n / down;
  r->first_phase = up > down ? 1 : 0;
  r->input = MakePlan(r->packed() ? n / 2 : n);
  r->part = r->part_n == r->input->n ? r->input : MakePlan(r->part_n);
  const Roots roots(up * n);
  for (int64_t pair = 0; pair < r->pairs(); ++pair) {
    const int64_t phase = r->first_phase + 2 * pair;
    for (int64_t k = 0; k < n; ++k) {
      Unit unit = ShiftFactor(*r, roots, k, phase);
      if (phase + 1 < up) {
        const Unit second = ShiftFactor(*r, roots, k, phase + 1);
        unit = {unit.re - second.im, unit.im + second.re};
      }
      Push(unit, &r->shift_re, &r->shift_im);
    }
  }
  if (r->packed()) {
    const Roots unpack(n);
    for (int64_t k = 0; k < n / 2; ++k) Push(unpack(k), &r->unpack_re, &r->unpack_im);
  }
  return r;
}

// The most recently used resamplers; an old one lives on in the calls that still hold it.
inline std::shared_ptr<const Resampler> GetResampler(int64_t n, int64_t up, int64_t down) {
  static std::mutex mutex;
  static auto* cache = new std::list<std::shared_ptr<const Resampler>>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto it = cache->begin(); it != cache->end(); ++it) {
    if ((*it)->n == n && (*it)->up == up && (*it)->down == down) {
      cache->splice(cache->begin(), *cache, it);
      return cache->front();
    }
  }
  cache->push_front(MakeResampler(n, up, down));
  if (cache->size() > kCachedResamplers) cache->pop_back();
  return cache->front();
}

}  // namespace n2m::fft
