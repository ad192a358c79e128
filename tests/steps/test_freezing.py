"""What a run does not train: by stages, by batch norms, by the size of a batch."""

from types import SimpleNamespace

import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.models.depth import Frozen
from convmesh.steps.freezing import make_frozen

SMALL = {"train.batch_size": 15, "init_from": "somewhere"}


def frozen(task="detect", model=None, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return make_frozen(apply_overrides(defaults(task), changes), model or SimpleNamespace())


@pytest.mark.parametrize("task, norms", [("detect", "backbone"), ("classify", "all")])
def test_norms_of_a_backbone_or_of_a_whole_classifier(task, norms):
    assert frozen(task, train__frozen_norms=True, train__frozen_stages=2) == Frozen(2, norms)
    assert frozen(task) == Frozen(0, "")
    assert not frozen(task, **SMALL)


def test_auto_is_for_loaded_weights_and_few_examples():
    auto = {"train.frozen_norms": "auto"}
    assert frozen(**auto, **SMALL) == Frozen(0, "backbone")
    assert not frozen(**auto, **SMALL | {"init_from": ""})
    assert not frozen(**auto, **SMALL | {"train.batch_size": 16})
    many = SMALL | {"train.batch_size": 32}
    assert not frozen(**auto, **many)
    assert frozen(**auto, **many, train__accumulate=4)
    assert frozen(**auto, **many, model__norm_group=8)
    assert not frozen(**auto, **many, model__norm_group=16)


def test_a_model_that_is_defined_with_frozen_norms():
    model = SimpleNamespace(frozen_norm=True)
    assert frozen(model=model) == Frozen(0, "backbone")
