"""How much of a split may be bad before training is refused.

A few bad boxes or images are dropped, clipped or skipped if the config says so. If it is more than
`data.max_bad_boxes` or `data.max_bad_examples`, the files do not mean what they are read as, and
what is learnt from the rest would be worth little.
"""

from __future__ import annotations

# Fewer than this are never too many: in a small split, two bad boxes are no sign of anything.
MIN_BAD = 3


def exceeds(bad: int, total: int, limit: float) -> bool:
    """Return whether `bad` of `total` boxes or images are more than the fraction `limit`."""
    return bad >= MIN_BAD and bad / total > limit


def describe(bad: int, total: int, noun: str, key: str, limit: float) -> str:
    """Return a description of too many; noun: `boxes are bad`, key: the one of `limit`."""
    return f"{bad} of {total} {noun}, more than {key}={limit:g} allows"
