"""Which keys may change when a run resumes."""

import pytest

from convmesh import config as cfg


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("train.steps", 9, True),
        ("mesh.spatial", 2, True),
        ("data.root", "/elsewhere", True),
        ("eval.every_steps", 9, True),
        ("checkpoint.keep", 9, True),
        ("train.max_nonfinite_steps", 9, True),
        ("checkpoint.best_metric", "AP50", False),
        ("init_from", "/elsewhere", False),
        ("schedule.floor", 0.1, False),
        ("schedule.flat", 0.1, False),
        ("optimizer.backbone_rate", 0.1, False),
        ("optimizer.layer_decay", 0.1, False),
        ("train.frozen_stages", 1, False),
        ("train.seed", 9, False),
        ("train.batch_size", 9, False),
        ("data.image_size", (33, 33), False),
        ("precision", "bfloat16", False),
    ],
)
def test_only_these_keys_may_change_on_resume(name, value, allowed, refused):
    old = cfg.defaults("detect")
    new = cfg.apply_overrides(old, {name: value})
    assert cfg.changed_keys(old, new) == [name]
    assert cfg.may_change_on_resume(name) is allowed
    if allowed:
        cfg.check_resume(old, new)
    else:
        before = dict(cfg.flatten(old))[name]
        assert f"{name} ({before!r} -> {value!r})" in refused(cfg.check_resume, old, new)


def test_patience_may_change_and_nesterov_may_not(refused):
    old = cfg.apply_overrides(cfg.defaults("detect"), {"eval.every_steps": 5})
    cfg.check_resume(old, cfg.apply_overrides(old, {"train.patience": 2}))
    old = cfg.apply_overrides(cfg.defaults("detect"), {"optimizer.name": "sgd"})
    new = cfg.apply_overrides(old, {"optimizer.nesterov": True})
    assert "optimizer.nesterov (False -> True)" in refused(cfg.check_resume, old, new)


def test_no_other_key_may_change():
    allowed = [name for name in cfg.KEYS if cfg.may_change_on_resume(name)]
    assert set(allowed) == {
        *("train.steps", "train.epochs", "train.log_every_steps"),
        *("train.max_nonfinite_steps", "train.patience"),
        *("data.root", "data.train_annotations", "data.train_images"),
        *("data.eval_annotations", "data.eval_images", "data.workers", "data.cache"),
        *("data.max_bad_examples", "data.max_bad_boxes"),
        *("mesh.data", "mesh.spatial", "mesh.model", "mesh.fsdp"),
        *("eval.every_steps", "eval.batch_size"),
        *("checkpoint.every_steps", "checkpoint.keep"),
    }


def test_every_resume_prefix_is_a_key_or_a_group():
    for prefix in cfg.RESUME_MAY_CHANGE:
        assert any(name == prefix or name.startswith(prefix + ".") for name in cfg.KEYS), prefix


def test_every_change_that_is_refused_is_named_in_the_order_of_the_keys(refused):
    old = cfg.defaults("detect")
    changes = {"train.seed": 9, "train.steps": 5, "precision": "bfloat16"}
    new = cfg.apply_overrides(old, changes)
    assert refused(cfg.check_resume, old, new) == (
        "the workdir holds another run: precision ('float32' -> 'bfloat16'), train.seed (0 -> 9) "
        "changed; undo the change or use a new --workdir"
    )


def test_a_key_that_only_one_config_has_is_changed():
    old, new = {"task": "detect", "old_key": None}, {"task": "detect", "new_key": None}
    assert cfg.changed_keys(old, new) == ["old_key", "new_key"]
