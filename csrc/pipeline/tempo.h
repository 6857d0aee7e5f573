// The tempo that a text states in numbers: python/noise2music/text/tempo.py in C++.
#pragma once

#include <string_view>

namespace n2m {

// Beats a minute as stated: "120 BPM", "96.5 beats per minute", "tempo 80"; 0 where none is. The
// first number from 20 to 400 that is a tempo counts.
double StatedTempo(std::string_view text);

}  // namespace n2m
