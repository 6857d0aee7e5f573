// Passing an error on.
#pragma once

#include "noise2music/status.h"

#define N2M_CONCAT_(a, b) a##b
#define N2M_CONCAT(a, b) N2M_CONCAT_(a, b)
// Returns from the function that it stands in if `expression`, a Status, is not ok.
#define N2M_RETURN_IF_ERROR(expression)                               \
  if (::n2m::Status N2M_CONCAT(n2m_status_, __LINE__) = (expression); \
      !N2M_CONCAT(n2m_status_, __LINE__).ok()) {                      \
    return N2M_CONCAT(n2m_status_, __LINE__);                         \
  }                                                                   \
  static_assert(true, "wants a semicolon")
