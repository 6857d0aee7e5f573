#include "pipeline/unicode.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

namespace n2m {
namespace {

#include "pipeline/unicode_tables.inc"

// Hangul is composed by arithmetic (UAX 15).
constexpr uint32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr uint32_t kVowels = 21, kTrails = 28, kSyllables = 11172;

// Rows of `stride` numbers sorted by their first: the row that begins with `code`, or null.
template <size_t n>
const uint32_t* Row(const uint32_t (&table)[n], size_t stride, uint32_t code) {
  size_t low = 0, high = n / stride;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (table[middle * stride] < code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < n / stride && table[low * stride] == code ? table + low * stride : nullptr;
}

template <size_t n>
bool InRanges(const uint32_t (&table)[n], uint32_t code) {
  // An odd number of bounds at or before `code` means inside, but for the last of a range itself.
  const uint32_t* bound = std::lower_bound(std::begin(table), std::end(table), code);
  return (bound != std::end(table) && *bound == code) || (bound - table) % 2 == 1;
}

uint32_t CombiningClass(uint32_t code) {
  const uint32_t* row = Row(kCombiningClass, 2, code);
  return row == nullptr ? 0 : row[1];
}

void Decompose(uint32_t code, std::vector<uint32_t>* out) {
  if (code >= kSyllable && code < kSyllable + kSyllables) {
    const uint32_t index = code - kSyllable;
    out->push_back(kLead + index / (kVowels * kTrails));
    out->push_back(kVowel + index % (kVowels * kTrails) / kTrails);
    if (index % kTrails != 0) out->push_back(kTrail + index % kTrails);
  } else if (const uint32_t* row = Row(kDecomposed, 2, code)) {
    const uint32_t* first = kDecomposition + row[1] / 32;
    out->insert(out->end(), first, first + row[1] % 32);
  } else {
    out->push_back(code);
  }
}

// The one character that stands for both, 0 if there is none.
uint32_t Compose(uint32_t a, uint32_t b) {
  if (a >= kLead && a < kLead + 19 && b >= kVowel && b < kVowel + kVowels) {
    return kSyllable + ((a - kLead) * kVowels + (b - kVowel)) * kTrails;
  }
  if (a >= kSyllable && a < kSyllable + kSyllables && (a - kSyllable) % kTrails == 0 &&
      b > kTrail && b < kTrail + kTrails) {
    return a + (b - kTrail);
  }
  const uint32_t* row = Row(kComposed, 3, a);
  for (; row != nullptr && row != std::end(kComposed) && row[0] == a; row += 3) {
    if (row[1] == b) return row[2];
  }
  return 0;
}

}  // namespace

bool IsSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}
bool IsNumber(uint32_t code) { return InRanges(kNumbers, code); }
bool IsPunctuation(uint32_t code) { return InRanges(kPunctuation, code); }
bool IsWord(uint32_t code) { return InRanges(kWord, code); }

std::vector<uint32_t> Nfkc(const std::vector<uint32_t>& text) {
  std::vector<uint32_t> out;
  for (const uint32_t code : text) Decompose(code, &out);
  // Marks in the order of their classes.
  for (size_t i = 0; i < out.size();) {
    size_t end = i;
    while (end < out.size() && CombiningClass(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(i),
                     out.begin() + static_cast<std::ptrdiff_t>(end),
                     [](uint32_t a, uint32_t b) { return CombiningClass(a) < CombiningClass(b); });
    i = end + 1;
  }
  // Each character joins the last starter, if nothing of its own class or a higher one stands
  // between.
  size_t kept = 0, starter = 0;
  bool has_starter = false;
  uint32_t before = 0;  // class of the last character kept
  for (const uint32_t code : std::vector<uint32_t>(out)) {
    const uint32_t combining = CombiningClass(code);
    const bool adjacent = has_starter && kept == starter + 1;
    if (has_starter && (adjacent || before < combining)) {
      if (const uint32_t joined = Compose(out[starter], code)) {
        out[starter] = joined;
        continue;
      }
    }
    if (combining == 0) {
      starter = kept;
      has_starter = true;
    }
    before = combining;
    out[kept++] = code;
  }
  out.resize(kept);
  return out;
}

std::vector<uint32_t> Lowercase(const std::vector<uint32_t>& text) {
  std::vector<uint32_t> out;
  out.reserve(text.size());
  for (const uint32_t code : text) {
    const uint32_t* row = Row(kLower, 2, code);
    out.push_back(row != nullptr ? row[1] : code == 0x130 ? 0x69 : code);
    if (code == 0x130) out.push_back(0x307);  // the only letter whose lower case is two
  }
  return out;
}

size_t GraphemeEnd(const std::vector<uint32_t>& text, size_t first) {
  const auto control = [](uint32_t code) { return InRanges(kGraphemeControl, code); };
  size_t end = first + 1;
  if (text[first] == '\r' && end < text.size() && text[end] == '\n') return end + 1;
  if (control(text[first])) return end;
  while (end < text.size() && InRanges(kGraphemePrepend, text[end - 1]) && !control(text[end])) {
    ++end;
  }
  while (end < text.size() && InRanges(kGraphemeExtend, text[end])) ++end;
  return end;
}

}  // namespace n2m
