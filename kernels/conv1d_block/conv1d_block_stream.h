// Stores that go past the caches. An ordinary store first reads the line that it overwrites, so a
// large result costs twice its bytes of memory traffic.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace n2m::conv1d_block {

// to[0 : n] = from[0 : n], past the caches where the processor can and `to` is aligned to 16 bytes.
inline void StreamCopy(const float* from, int64_t n, float* to) {
#if defined(__SSE2__)
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    const int64_t whole = n / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
    std::copy(from + whole, from + n, to + whole);
    return;
  }
#endif
  std::copy(from, from + n, to);
}

// Such stores are seen by other threads after this.
inline void StreamEnd() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace n2m::conv1d_block
