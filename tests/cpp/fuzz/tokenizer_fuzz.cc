// Any bytes as tokenizer.json; and as a prompt, through a tokenizer that could be read.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "pipeline/tempo.h"
#include "pipeline/tokenizer.h"
#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  n2m::Tokenizer tokenizer;
  if (n2m::Tokenizer::Parse(bytes, "fuzz", &tokenizer).ok()) {
    for (const std::string_view text :
         {bytes.substr(size / 2), std::string_view("a bc 128 bpm, \u00e9!")}) {
      bool cut = false;
      for (const int32_t id : tokenizer.Encode(text.substr(0, 300), 64, &cut)) {
        if (id < 0 || id >= tokenizer.vocab_size()) __builtin_trap();
      }
    }
  }
  const std::string_view prompt = bytes.substr(0, 2000);
  const double tempo = n2m::StatedTempo(prompt);
  if (tempo != 0.0 && !(tempo >= 20.0 && tempo <= 400.0)) __builtin_trap();
  const std::string normal = n2m::EncodeUtf8(n2m::Nfkc(n2m::DecodeUtf8(prompt)));
  if (!n2m::ValidUtf8(normal) || n2m::EncodeUtf8(n2m::Nfkc(n2m::DecodeUtf8(normal))) != normal) {
    __builtin_trap();  // normalising twice changes nothing
  }
  return 0;
}
