"""Makes the table of a Precompiled normaliser, as SentencePiece stores it."""

import struct


def charsmap(replacements: dict[str, str]) -> bytes:
    """uint32 size of the trie in bytes; a double-array trie; the replacements, each ended by 0.

    A unit of the trie holds its label in bits 0 to 7, "a key ends here" in bit 8, and in bits 10 to
    30 what its own index is to be XORed with for the index of its children less their labels. The
    child of label 0 holds a value, with bit 31 set.
    """
    values, texts = {}, b""
    for key, text in replacements.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    units: dict[int, int] = {}

    def place(at: int, label: int, keys: list[bytes], depth: int) -> None:
        ends = len(keys[0]) == depth
        labels = sorted({key[depth] for key in keys if len(key) > depth} | ({0} if ends else set()))
        base = next(b for b in range(1, 1 << 21) if all(b ^ c not in units for c in labels))
        units[at] = label | (256 if ends else 0) | ((at ^ base) << 10)
        for c in labels:
            units[base ^ c] = 0  # taken
        for c in labels:
            if c == 0:
                units[base] = values[keys[0]] | 1 << 31
            else:
                below = [key for key in keys if key[depth : depth + 1] == bytes([c])]
                place(base ^ c, c, below, depth + 1)

    units[0] = 0
    place(0, 0, sorted(values), 0)
    # Whole blocks of 256, so that no label leads outside.
    trie = [units.get(i, 0) for i in range((max(units) | 255) + 1)]
    return struct.pack(f"<I{len(trie)}I", 4 * len(trie), *trie) + texts
