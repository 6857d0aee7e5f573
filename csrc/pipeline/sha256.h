// SHA-256 (FIPS 180-4).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace n2m {

class Sha256 {
 public:
  void Update(std::string_view bytes);
  std::string Hex();  // of all bytes so far; ends the sum

 private:
  void Block(const unsigned char* block);
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned char rest_[64] = {};
  size_t held_ = 0;
  uint64_t total_ = 0;
};

}  // namespace n2m
