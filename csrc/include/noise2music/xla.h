/// \file
/// For C++ programs that run XLA programs with noise2music's custom calls in them. Needs the CMake
/// component noise2music::xla; the other headers do not need XLA.
///
/// A registry that lists what it is given:
/// \include register_xla.cc
#pragma once

#include "noise2music/status.h"

struct XLA_FFI_Api;

namespace n2m {

/// Registers every handler of the library with XLA. Call it once, before compiling.
Status RegisterXlaHandlers(const XLA_FFI_Api* api);

}  // namespace n2m
