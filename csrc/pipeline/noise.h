// The noise contract: what jax.random draws under its default, partitionable threefry
// (docs/design/noise.md), to rounding.
#pragma once

#include <cstdint>

#include "noise2music/executor.h"

namespace n2m {

// A threefry key.
struct Key {
  uint32_t high = 0, low = 0;
};

Key MakeKey(uint64_t seed);
Key FoldIn(Key key, uint32_t data);

// z (n) standard normal: jax.random.normal(key, (n,)).
void Normal(Key key, int64_t n, float* z, Executor& executor);

}  // namespace n2m
