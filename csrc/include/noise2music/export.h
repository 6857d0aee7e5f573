/// \file
/// Marks what the shared library exports. Everything else is hidden.
#pragma once

#if defined(__GNUC__)
/// Before a declaration: the shared library exports it.
#define N2M_API __attribute__((visibility("default")))
#else
#define N2M_API
#endif
