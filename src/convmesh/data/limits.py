"""How much of a split may be bad before training is refused.

A few bad boxes or images are dropped, clipped or skipped if the config says so. If it is more than
`data.max_bad_boxes` or `data.max_bad_examples`, the files do not mean what they are read as, and
what is learnt from the rest would be worth little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

# Fewer than this are never too many: in a small split, two bad boxes are no sign of anything.
MIN_BAD = 3
_SAMPLE_IMAGES = 16  # that are opened before the first step


def sample_of(total: int, least: int = 0) -> list[int]:
    """Return the indices of a sample of `total` examples, spread evenly over them.

    least: of how many examples, if that is more than usual.
    """
    count = min(max(least, _SAMPLE_IMAGES), total)
    return np.linspace(0, total - 1, count).astype(int).tolist()


@dataclass(frozen=True)
class Limit:
    """A limit on what is bad; noun: of what. key: of the largest fraction. policy: key of the
    policy, which limits nothing if it is `fail`.
    """

    noun: str
    key: str
    policy: str

    def of(self, config: ConfigDict) -> float:
        """Return the largest fraction that `config` allows; 1 if the policy is `fail`."""
        return 1.0 if config[self.policy] == "fail" else config[self.key]

    def exceeded(self, bad: int, total: int, limit: float) -> str:
        """Return a description if `bad` of `total` are more than the fraction `limit`, else ''."""
        if bad < MIN_BAD or bad / total <= limit:
            return ""
        return f"{bad} of {total} {self.noun} are bad, more than {self.key}={limit:g} allows"


BOXES = Limit("boxes", "data.max_bad_boxes", "data.on_bad_box")
IMAGES = Limit("images", "data.max_bad_examples", "data.on_bad_example")
