#include "pipeline/tempo.h"

#include <charconv>
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/unicode.h"
#include "pipeline/utf8.h"

namespace n2m {
namespace {

constexpr double kLowest = 20.0, kHighest = 400.0;

// A place in a text in lower case; the patterns below move it on, or leave it where it was and
// answer false.
class Scanner {
 public:
  explicit Scanner(const std::vector<uint32_t>& text) : text_(text) {}

  size_t at = 0;

  bool AtEnd() const { return at >= text_.size(); }
  bool Boundary() const { return Word(at) != (at > 0 && IsWord(text_[at - 1])); }
  void Spaces() {
    // \s of Python is wider than White_Space by four separators.
    while (!AtEnd() && (IsSpace(text_[at]) || (text_[at] >= 0x1C && text_[at] <= 0x1F))) ++at;
  }
  bool Take(const char* word) {
    size_t i = at;
    for (; *word != 0; ++word, ++i) {
      if (i >= text_.size() || text_[i] != static_cast<unsigned char>(*word)) return false;
    }
    at = i;
    return true;
  }
  bool Digit() const { return !AtEnd() && text_[at] >= '0' && text_[at] <= '9'; }

 private:
  bool Word(size_t i) const { return i < text_.size() && IsWord(text_[i]); }
  const std::vector<uint32_t>& text_;
};

// \d{2,3}(\.\d+)? and what must follow, read as a backtracking matcher does: the longest first.
// `then` answers where the rest ends, 0 where it does not fit; so does Number.
template <class Then>
size_t Number(const Scanner& start, const std::vector<uint32_t>& text, double* value,
              const Then& then) {
  const size_t first = start.at;
  for (size_t digits = 3; digits >= 2; --digits) {
    Scanner s = start;
    while (s.at < first + digits && s.Digit()) ++s.at;
    if (s.at != first + digits) continue;
    const size_t whole = s.at;
    size_t last = whole;
    if (s.Take(".")) {
      while (s.Digit()) ++s.at;
      if (s.at > whole + 1) last = s.at;
    }
    for (size_t end = last; end >= whole; --end) {
      if (end == whole + 1) continue;  // a point without a digit
      Scanner after = start;
      after.at = end;
      const size_t rest = then(after);
      if (rest == 0) continue;
      std::string number;
      for (size_t i = first; i < end; ++i) number.push_back(static_cast<char>(text[i]));
      std::from_chars(number.data(), number.data() + number.size(), *value);
      return rest;
    }
  }
  return 0;
}

// \s*-?\s*(bpm\b|beats?\s+(per|a|/)\s*min)
size_t Unit(Scanner s) {
  s.Spaces();
  s.Take("-");
  s.Spaces();
  if (s.Take("bpm")) return s.Boundary() ? s.at : 0;
  if (!s.Take("beat")) return 0;
  s.Take("s");
  const size_t before = s.at;
  s.Spaces();
  if (s.at == before || !(s.Take("per") || s.Take("a") || s.Take("/"))) return 0;
  s.Spaces();
  return s.Take("min") ? s.at : 0;
}

}  // namespace

double StatedTempo(std::string_view utf8) {
  const std::vector<uint32_t> text = Lowercase(DecodeUtf8(utf8));
  Scanner s(text);
  for (; !s.AtEnd(); ++s.at) {
    if (!s.Boundary()) continue;
    double tempo = 0.0;
    size_t end = Number(s, text, &tempo, Unit);
    Scanner name = s;
    if (end == 0 && (name.Take("bpm") || name.Take("tempo"))) {
      name.Spaces();
      if (name.Take("of") || name.Take("is") || name.Take(":") || name.Take("=")) name.Spaces();
      end = Number(name, text, &tempo,
                   [](const Scanner& after) { return after.Boundary() ? after.at : 0; });
    }
    if (end == 0) continue;
    if (tempo >= kLowest && tempo <= kHighest) return tempo;
    s.at = end - 1;  // what was read is not read again
  }
  return 0.0;
}

}  // namespace n2m
