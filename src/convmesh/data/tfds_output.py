"""Silences the output of TensorFlow Datasets while it opens or prepares a data set."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging as absl_logging


@contextlib.contextmanager
def quiet_tfds(progress: bool = False) -> Iterator[None]:
    """Silence what TFDS prints and logs, except errors, and with `progress` its progress bars."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    if not progress:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)
        tfds.enable_progress_bar()
