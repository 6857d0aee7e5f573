// What the tokenizer and the tempo reader need to know of Unicode. The tables are made by
// unicode_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace n2m {

bool IsSpace(uint32_t code);        // White_Space
bool IsNumber(uint32_t code);       // general category N
bool IsPunctuation(uint32_t code);  // general category P, and every mark of ASCII
bool IsWord(uint32_t code);         // \w of a regular expression

// Normalisation form KC (UAX 15).
std::vector<uint32_t> Nfkc(const std::vector<uint32_t>& text);

// Every character in lower case by itself.
std::vector<uint32_t> Lowercase(const std::vector<uint32_t>& text);

// One past the grapheme cluster (UAX 29) that begins at `first`. Hangul, flags, emoji sequences and
// conjuncts are left in parts: whole, they are of six bytes or more in UTF-8, and char_map.h looks
// at those a character at a time anyway.
size_t GraphemeEnd(const std::vector<uint32_t>& text, size_t first);

}  // namespace n2m
