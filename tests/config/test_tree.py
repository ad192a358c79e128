"""Configs with every key at its default."""

import pytest

from convmesh import config as cfg


@pytest.mark.parametrize("task", cfg.TASKS)
def test_defaults_pass_their_own_check_and_are_locked(task):
    config = cfg.check(cfg.defaults(task))
    assert config.task == task
    assert config.data.augment.scale == (0.5, 1.5)
    assert dict(cfg.flatten(config)).keys() == cfg.KEYS.keys()
    with pytest.raises(AttributeError):
        config.train.stpes = 5
    with pytest.raises(AttributeError):
        config.extra = 5


def test_an_unknown_task_is_refused(refused):
    message = refused(cfg.defaults, "detekt")
    assert message == "task: got 'detekt', wanted one of detect, classify; did you mean detect?"
