"""Writes unicode_tables.inc: what the tokenizer needs to know of Unicode.

    python csrc/pipeline/unicode_tables.py > csrc/pipeline/unicode_tables.inc

Ranges [first, last] of numbers, punctuation and the characters of words; lower case; compatibility
decompositions in full (Hangul is arithmetic); combining classes; canonical compositions.
"""

import sys
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)
EVERY = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def ranges(wanted):
    out = []
    for code in EVERY:
        if wanted(chr(code)):
            if out and out[-1][1] == code - 1:
                out[-1][1] = code
            else:
                out.append([code, code])
    return [number for pair in out for number in pair]


def write(name, numbers, kind="uint32_t"):
    print(f"constexpr {kind} {name}[] = {{")
    line = "   "
    for number in numbers:
        item = f" {number},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


def main():
    print("// Made by unicode_tables.py from Unicode " + unicodedata.unidata_version + ".")
    write("kNumbers", ranges(lambda c: unicodedata.category(c)[0] == "N"))
    ascii_marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    marks = lambda c: unicodedata.category(c)[0] == "P" or c in ascii_marks  # noqa: E731
    write("kPunctuation", ranges(marks))
    write("kWord", ranges(lambda c: c.isalnum() or c == "_"))
    lower = [c for c in EVERY if chr(c).lower() != chr(c)]
    assert [c for c in lower if len(chr(c).lower()) > 1] == [0x130]  # handled in unicode.cc
    write("kLower", [n for c in lower if c != 0x130 for n in (c, ord(chr(c).lower()))])
    classes = [(c, unicodedata.combining(chr(c))) for c in EVERY if unicodedata.combining(chr(c))]
    write("kCombiningClass", [n for pair in classes for n in pair])

    text, index = [], []
    for code in EVERY:
        full = unicodedata.normalize("NFKD", chr(code))
        if full != chr(code) and code not in HANGUL:
            index += [code, len(text) * 32 + len(full)]  # place and length in one number
            text += [ord(c) for c in full]
            assert len(full) < 32
    write("kDecomposed", index)
    write("kDecomposition", text)

    pairs = []
    for code in EVERY:
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<") and code not in HANGUL:
            first, second = (int(p, 16) for p in parts)
            if unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(code):
                pairs.append((first, second, code))
    write("kComposed", [n for triple in sorted(pairs) for n in triple])


main()
