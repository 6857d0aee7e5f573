// Nontemporal stores: they go past the caches. An ordinary store first reads the line that it
// overwrites, so a large result costs twice its bytes of memory traffic.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/simd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace n2m::nontemporal {

// Whether an address, or a number of bytes, is whole cache lines.
inline bool OnALine(int64_t bytes) { return bytes % 64 == 0; }
inline bool OnALine(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// One vector; p is aligned to it. An instruction by name, as GCC's builtins for it need a target
// that the templates of simd.h have only where they are inlined.
template <int L>
N2M_INLINE void Store(float* p, simd::Float<L> v) {
#if defined(__SSE2__)
  simd::Float<L>* to = reinterpret_cast<simd::Float<L>*>(p);
  if constexpr (L == 4) {
    asm("movntps %1, %0" : "=m"(*to) : "x"(v));
  } else {
    asm("vmovntps %1, %0" : "=m"(*to) : "v"(v));
  }
#else
  simd::Store<L>(p, v);
#endif
}

// to[0 : n] = from[0 : n], past the caches where the processor can and `to` is aligned to 16 bytes.
inline void Copy(const float* from, int64_t n, float* to) {
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
N2M_INLINE void Fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace n2m::nontemporal
