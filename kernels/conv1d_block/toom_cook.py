"""The numbers of the minimal-filtering (Toom-Cook) convolution, in exact rational arithmetic.

F(m, K) gives m outputs y[i] = sum_k g[k] d[i + k] of a filter of K taps from n = m + K - 1 products
instead of m K. Evaluate two polynomials at n points, multiply, interpolate; transposed, that is

    y = A^T ((G g) * (B^T d)),    A (n, m),  G (n, K),  B (n, n)

With the finite points a_0 ... a_{n-2}, infinity as the last, and M_j(x) = prod_{l != j} (x - a_l),

    A[j, i] = a_j^i / M_j(a_j),  G[j, k] = a_j^k,  B^T[j, l] = coefficient of x^l in M_j(x)

(where the scale stands is free; the outputs take it for nothing) and for infinity
A = (0, ..., 0, 1), G = (0, ..., 0, 1), B^T = coefficients of prod_l (x - a_l).

The points here are 0, pairs +a and -a, and infinity, so n is even. A pair shares its work: with
P(x^2) = prod over the pairs of (x^2 - a^2) and R_j(x^2) = P / (x^2 - a_j^2),

    rows of B^T:  0: P on d[0], d[2], ...   infinity: P on d[1], d[3], ...
                  +-a_j: (R_j on d[2], d[4], ...) +- a_j (R_j on d[1], d[3], ...)

which is what the kernels compute from the tables below. Points a and about 1/a keep the sums
balanced; these sets had the smallest errors of those tried (README, "Errors").

``python -m noise2music.kernels.conv1d_block.toom_cook > conv1d_block_points.h`` writes the header.
"""

from __future__ import annotations

from fractions import Fraction

Matrix = list[list[Fraction]]

# n -> the positive halves of the pairs, besides 0 and infinity.
PAIRS = {
    8: ("1", "1/2", "2"),
    10: ("1", "2/5", "4/5", "5/2"),
    12: ("1", "4/3", "3/4", "5/2", "2/5"),
    14: ("1", "1/2", "3/2", "5/4", "1/3", "3"),
}
POWERS = 10  # a^0 ... a^9: outputs or taps of any F(m, K) in use


def pairs(n: int) -> list[Fraction]:
    """The positive halves of the pairs of points."""
    return [Fraction(a) for a in PAIRS[n]]


def points(n: int) -> list[Fraction]:
    """The finite points in the order of the kernels: 0, a_1, -a_1, a_2, ...; infinity is last."""
    return [Fraction(0)] + [s * a for a in pairs(n) for s in (1, -1)]


def product(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of prod (x - root), lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        up, same = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [u - root * c for u, c in zip(up, same, strict=True)]
    return coefficients


def matrices(m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A, G, B^T) of F(m, taps), a row a point."""
    n = m + taps - 1
    finite = points(n)
    g = [[p**k for k in range(taps)] for p in finite]
    a, b = [], []
    for j, p in enumerate(finite):
        others = finite[:j] + finite[j + 1 :]
        norm = Fraction(1)
        for other in others:
            norm *= p - other
        a.append([p**i / norm for i in range(m)])
        b.append([*product(others), Fraction(0)])
    last = Fraction(1)
    a.append([Fraction(0)] * (m - 1) + [last])
    g.append([Fraction(0)] * (taps - 1) + [last])
    b.append(product(finite))
    return a, g, b


def tables(n: int) -> dict[str, list[list[Fraction]]]:
    """What the kernels read: P, R_j, a_j^i and 1 / M_j(a_j) (0 first, then one a pair)."""
    squares = [a * a for a in pairs(n)]
    norms = [product(squares)[0]]
    quotients = []
    for j, square in enumerate(squares):
        others = squares[:j] + squares[j + 1 :]
        quotients.append(product(others))
        norm = 2 * square
        for other in others:
            norm *= square - other
        norms.append(norm)
    return {
        "kProduct": [product(squares)],
        "kQuotient": quotients,
        "kPower": [[a**i for i in range(POWERS)] for a in pairs(n)],
        "kInverse": [[1 / norm for norm in norms]],
    }


def header() -> str:
    """The text of conv1d_block_points.h."""
    lines = [
        "// Written by toom_cook.py, which says what the numbers are. Do not edit.",
        "// clang-format off",
        "#pragma once",
        "",
        "namespace n2m::conv1d_block {",
        "",
        "template <int n>",
        "struct Points;",
    ]
    for n in PAIRS:
        lines += [
            "",
            f"// 0, {', '.join('+-' + a for a in PAIRS[n])} and infinity",
            "template <>",
            f"struct Points<{n}> {{",
            f"  static constexpr int kPairs = {len(PAIRS[n])};",
        ]
        for name, rows in tables(n).items():
            sizes = "".join(f"[{s}]" for s in (len(rows), len(rows[0])) if s > 1)
            text = ["{" + ", ".join(_literal(x) for x in row) + "}" for row in rows]
            if len(rows) == 1:
                lines.append(f"  static constexpr double {name}{sizes} = {text[0]};")
            else:
                lines.append(f"  static constexpr double {name}{sizes} = {{")
                lines += [f"      {row}," for row in text]
                lines.append("  };")
        lines.append("};")
    return "\n".join([*lines, "", "}  // namespace n2m::conv1d_block", ""])


def _literal(x: Fraction) -> str:
    return repr(float(x)).removesuffix(".0")


if __name__ == "__main__":
    print(header(), end="")
