/// \file
/// Plain types shared by every launcher of the library. No XLA, no Python.
#pragma once

#include <cstdint>

namespace n2m {

/// Storage type of an activation. Accumulation and statistics are float32 everywhere.
enum class DType : int32_t {
  kFloat32 = 0,   ///< 32 bits.
  kBFloat16 = 1,  ///< The upper 16 of them.
};

}  // namespace n2m
