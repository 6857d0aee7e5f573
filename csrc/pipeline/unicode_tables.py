"""Writes unicode_tables.inc: what the tokenizer needs to know of Unicode.

    python csrc/pipeline/unicode_tables.py > csrc/pipeline/unicode_tables.inc

Ranges [first, last] of numbers, punctuation, the characters of words and those that grapheme
clusters are made of; lower case; compatibility decompositions in full (Hangul is arithmetic);
combining classes; canonical compositions.
"""

import sys
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)
# UAX 29, table 2, and UAX 44: what the standard library does not know. Spacing marks that do not
# join, other characters that do, marks in front, default ignorables that are not assigned.
APART = """102B-102C 1038 1062-1064 1067-106D 1083 1087-108C 108F 109A-109C 1A61 1A63-1A64 AA7B AA7D
    11720-11721"""
JOINED = "E33 EB3 200C-200D FF9E-FF9F 1F3FB-1F3FF E0020-E007F"
IN_FRONT = """600-605 6DD 70F 890-891 8E2 D4E 110BD 110CD 111C2-111C3 1193F 11941 11A3A 11A84-11A89
    11D46 11F02"""
IGNORED = "2065 FFF0-FFF8 E0000-E001F E0080-E00FF E01F0-E0FFF"
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


def listed(text):
    pairs = [(item.split("-") * 2)[:2] for item in text.split()]
    return {chr(c) for first, last in pairs for c in range(int(first, 16), int(last, 16) + 1)}


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
    apart, joined, in_front = listed(APART), listed(JOINED), listed(IN_FRONT)
    ignored, not_control = listed(IGNORED), joined | in_front
    control = lambda c: unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") or c in ignored  # noqa: E731
    write("kGraphemeControl", ranges(lambda c: control(c) and c not in not_control))
    extend = lambda c: unicodedata.category(c)[0] == "M" and c not in apart  # noqa: E731
    write("kGraphemeExtend", ranges(lambda c: extend(c) or c in joined))
    write("kGraphemePrepend", ranges(lambda c: c in in_front))
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
