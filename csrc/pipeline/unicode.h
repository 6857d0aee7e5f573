// What the tokenizer and the tempo reader need to know of Unicode. The tables are made by
// unicode_tables.py.
#pragma once

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

}  // namespace n2m
