// The table of replacements that a SentencePiece model carries (T5's is nmt_nfkc): "Precompiled", a
// normaliser of a tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace n2m {

class CharMap {
 public:
  // `base64`: the size of a double-array trie in bytes (uint32, little-endian), the trie, then the
  // replacements, each ended by a zero. False if it is none.
  bool Parse(std::string_view base64);

  // Replaces every grapheme cluster of less than six bytes whose beginning is in the table, whole,
  // by what the shortest such beginning stands for; of other clusters each character by itself.
  // That is what the `tokenizers` library does, marks that go missing included.
  std::vector<uint32_t> Apply(const std::vector<uint32_t>& text) const;

 private:
  // What the shortest beginning of `key` stands for; false if none is in the table.
  bool Find(std::string_view key, std::string_view* replacement) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

}  // namespace n2m
