// What a transform of one length needs and never changes: radices, twiddles, phase tables.
//
// Every table is computed in float64 and rounded once. Plans are kept in a small cache shared by
// all threads, because a table costs more to make than the transform it serves.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace n2m::fft {

// Lanes of the split transform; fixed, so that the order of operations does not depend on the
// instruction set's width.
constexpr int64_t kLanes = 8;
// A prime factor above this is handled by Bluestein's algorithm: a pass costs about `prime`
// multiplications a point, Bluestein two transforms of at least twice the length.
constexpr int64_t kLargestRadix = 100;

// Floats of two planes (real, imaginary) of n values. The pad keeps equal places of the two out of
// one cache set.
constexpr int64_t kPad = 16;
constexpr int64_t PlaneFloats(int64_t n) { return 2 * (n + kPad); }

// One Stockham pass of decimation in frequency: radix p over blocks of `length`, vectors of
// `stride`.
struct Pass {
  int64_t radix;
  int64_t length;
  int64_t stride;
  // (length / radix, radix - 1, 2): e^{-2 pi i j k / length}, k = 1 .. radix - 1.
  std::vector<float> twiddle;
  // For a radix without its own butterfly: (radix, 2), cos and sin of 2 pi m / radix.
  std::vector<float> circle;
};

// The forward complex transform Z[k] = sum_t z[t] e^{-2 pi i k t / n}.
struct Plan {
  int64_t n = 0;
  // kLanes: the passes work on kLanes interleaved transforms of n / kLanes, and a last step joins
  // them. 1: the passes do it all.
  int64_t lanes = 1;
  std::vector<Pass> passes;
  // (kLanes - 1, n / kLanes): e^{-2 pi i l k / n}, l = 1 .. kLanes - 1.
  std::vector<float> join_re, join_im;
  // Bluestein: a convolution with e^{i pi t^2 / n} by transforms of a longer, smooth length.
  std::shared_ptr<const Plan> inner;
  std::vector<float> chirp_re, chirp_im;  // (n): e^{-i pi t^2 / n}
  std::vector<float> filter_re,
      filter_im;  // (inner->n): transform of the conjugate chirp / inner->n

  // Floats of extra scratch a transform needs beside its two pairs of planes.
  int64_t ExtraFloats() const { return inner ? 2 * PlaneFloats(inner->n) : 0; }
};

// Resampling n real samples by up / down in lowest terms. Output up * j + s is the input delayed by
// s * down / up of a sample, taken at down * j: each phase s is a product in the spectrum followed
// by an inverse transform of n / down points, and two phases share one complex transform.
struct Resampler {
  int64_t n, up, down;
  int64_t part_n;                     // n / down
  int64_t first_phase;                // 1 where phase 0 is a plain copy (up > down), else 0
  std::shared_ptr<const Plan> input;  // of n / 2 points for even n (packed), of n for odd
  std::shared_ptr<const Plan> part;   // of n / down points
  // Per phase n values weight(k) / n * e^{2 pi i k s down / (up n)} with k signed; a pair of phases
  // (s, s') is stored as one complex table H_s + i H_s', so that one inverse transform gives both.
  std::vector<float> shift_re, shift_im;
  std::vector<float> unpack_re, unpack_im;  // (n / 2), n even: e^{-2 pi i k / n}

  bool packed() const { return n % 2 == 0; }
  int64_t phases() const { return up - first_phase; }
  int64_t pairs() const { return (phases() + 1) / 2; }
};

std::shared_ptr<const Plan> MakePlan(int64_t n);
// From the cache, or made and put there.
std::shared_ptr<const Resampler> GetResampler(int64_t n, int64_t up, int64_t down);

}  // namespace n2m::fft
