// Overflow of sizes: checked once by every launcher, so that no index computed from them can wrap.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace n2m {

// Elements an array may have: its bytes, and a few such numbers added up, fit in an int64_t.
constexpr int64_t kMostElements = int64_t{1} << 58;

// Whether the product of the sizes, each at least 0, is at most kMostElements.
inline bool ProductFits(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size == 0) return true;
  }
  for (const int64_t size : sizes) {
    if (size > kMostElements / product) return false;
    product *= size;
  }
  return true;
}

}  // namespace n2m
