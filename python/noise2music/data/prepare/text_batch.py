"""A clip's text batch (section 4.1).

Every long prompt is an element. The short labels are concatenated and segmented to the token
length: each segment holds as many whole labels as fit, and is an element too. In training, every
clip draws one of its elements at random at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SEPARATOR = ", "


def elements(
    captions: Sequence[str], labels: Sequence[str], tokenizer: Any, length: int
) -> list[str]:
    """The text batch of a clip: at least one element, "" where nothing is said of it.

    A label or prompt that is longer than `length` tokens by itself stays whole here, and is cut
    when it is encoded.
    """
    segments: list[str] = []
    for label in labels:
        longer = segments[-1] + SEPARATOR + label if segments else label
        if segments and tokenizer.encode([longer], length)[2][0]:
            segments.append(label)
        else:
            segments[-1:] = [longer]
    return [*captions, *segments] or [""]
