"""Checkpoints that the tests change."""

import pytest
from checkpoint_states import META, make_state

from convmesh.workdir.checkpoints import Checkpoints


@pytest.fixture
def two(tmp_path):
    """Checkpoints of steps 1 and 2, to be damaged."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step), META)
    return tmp_path
