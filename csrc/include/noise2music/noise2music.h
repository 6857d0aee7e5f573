/// \file
/// The kernels' C++ API; the cascade is in noise2music/pipeline.h. Each header can also be included
/// alone; none needs Python or XLA.
///
/// A program that calls one operation:
/// \include one_op.cc
#pragma once

#include "noise2music/ancestral_step.h"
#include "noise2music/combine_film.h"
#include "noise2music/conv1d_block.h"
#include "noise2music/executor.h"
#include "noise2music/fft_upsample.h"
#include "noise2music/status.h"
#include "noise2music/types.h"
#include "noise2music/version.h"
