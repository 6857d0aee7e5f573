#include "pipeline/char_map.h"

#include <cstddef>

#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

// RFC 4648, padded.
bool DecodeBase64(std::string_view text, std::string* out) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return false;
    bits = ((bits << 6) | static_cast<uint32_t>(digit)) & 0xFFFFFFu;
    held += 6;
    if (held >= 8) {
      held -= 8;
      out->push_back(static_cast<char>(static_cast<unsigned char>((bits >> held) & 0xFF)));
    }
  }
  return true;
}

uint32_t LittleEndian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// A unit of the double array: the byte that leads to it, where its children begin, and whether a
// key ends here (its first child then holds the value).
uint32_t Label(uint32_t unit) { return unit & 0x800000FFu; }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }
bool EndsKey(uint32_t unit) { return (unit & 0x100u) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFFu; }

}  // namespace

bool CharMap::Parse(std::string_view base64) {
  std::string bytes;
  if (!DecodeBase64(base64, &bytes) || bytes.size() < 8) return false;
  const uint32_t size = LittleEndian(bytes, 0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) return false;
  trie_.clear();
  for (uint32_t at = 0; at < size; at += 4) trie_.push_back(LittleEndian(bytes, 4 + at));
  replacements_ = bytes.substr(4 + size);
  return ValidUtf8(replacements_);
}

bool CharMap::Find(std::string_view key, std::string_view* replacement) const {
  size_t at = Offset(trie_[0]);
  for (const char c : key) {
    const uint32_t byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (byte == 0 || at >= trie_.size() || Label(trie_[at]) != byte) return false;
    const uint32_t unit = trie_[at];
    at ^= Offset(unit);
    if (!EndsKey(unit)) continue;
    if (at >= trie_.size() || Value(trie_[at]) > replacements_.size()) return false;
    *replacement = std::string_view(replacements_).substr(Value(trie_[at]));
    *replacement = replacement->substr(0, replacement->find('\0'));
    return true;
  }
  return false;
}

std::vector<uint32_t> CharMap::Apply(const std::vector<uint32_t>& text) const {
  std::vector<uint32_t> out;
  std::string_view replacement;
  const auto append = [&] {
    const std::vector<uint32_t> codes = DecodeUtf8(replacement);
    out.insert(out.end(), codes.begin(), codes.end());
  };
  for (size_t first = 0, last = 0; first < text.size(); first = last) {
    last = GraphemeEnd(text, first);
    std::string cluster;
    for (size_t i = first; i < last && cluster.size() < 6; ++i) AppendUtf8(text[i], &cluster);
    if (cluster.size() < 6 && Find(cluster, &replacement)) {
      append();
      continue;
    }
    for (size_t i = first; i < last; ++i) {
      std::string one;
      AppendUtf8(text[i], &one);
      if (Find(one, &replacement)) {
        append();
      } else {
        out.push_back(text[i]);
      }
    }
  }
  return out;
}

}  // namespace n2m
