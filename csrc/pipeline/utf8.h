// UTF-8 to code points and back.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace n2m {

// Whether `text` is well-formed: shortest forms, no surrogates, nothing above U+10FFFF.
bool ValidUtf8(std::string_view text);

// The code points of a text; each byte that belongs to no well-formed sequence becomes U+FFFD.
std::vector<uint32_t> DecodeUtf8(std::string_view text);

// `code` must be at most 0x10FFFF.
void AppendUtf8(uint32_t code, std::string* out);

std::string EncodeUtf8(const std::vector<uint32_t>& codes);

}  // namespace n2m
