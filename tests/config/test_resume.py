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
        ("checkpoint.best_metric", "AP50", True),
        ("checkpoint.every_minutes", 0.0, True),
        ("data.on_bad_example", "skip", True),
        ("data.eval_split", "test", True),
        ("model.remat", True, True),
        ("model.backbone", "resnet50", False),
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
        *("data.on_bad_example", "data.max_bad_examples", "data.max_bad_boxes"),
        *("data.eval_resize", "data.eval_interpolation", "data.eval_size"),
        *("data.eval_split", "data.val_fraction", "model.remat"),
        *("mesh.data", "mesh.spatial", "mesh.model", "mesh.fsdp"),
        *("eval.every_steps", "eval.batch_size"),
        *("checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep"),
        "checkpoint.best_metric",
    }


def test_bad_boxes_may_be_dropped_only_where_none_were_learnt_from(refused):
    old = cfg.defaults("detect")
    drop, clip = (cfg.apply_overrides(old, {"data.on_bad_box": v}) for v in ("drop", "clip"))
    cfg.check_resume(old, drop)  # so far there was none: a bad box ended the run
    cfg.check_resume(old, clip)
    assert "data.on_bad_box ('drop' -> 'clip')" in refused(cfg.check_resume, drop, clip)
    assert "data.on_bad_box ('drop' -> 'fail')" in refused(cfg.check_resume, drop, old)


def test_processes_may_differ_only_in_where_and_how_files_are_read():
    config = cfg.defaults("detect")
    left_out = {name for name, _ in cfg.flatten(config)} - cfg.same_for_all_processes(config).keys()
    assert left_out == {
        *("data.root", "data.train_annotations", "data.train_images"),
        *("data.eval_annotations", "data.eval_images", "data.workers", "data.cache"),
    }
    here, there = (cfg.apply_overrides(config, {"init_from": path}) for path in ("a", "b"))
    assert cfg.same_for_all_processes(here) == cfg.same_for_all_processes(there)
    assert cfg.same_for_all_processes(here) != cfg.same_for_all_processes(config)


def test_every_resume_prefix_is_a_key_or_a_group():
    for prefix in cfg.RESUME_MAY_CHANGE:
        assert any(name == prefix or name.startswith(prefix + ".") for name in cfg.KEYS), prefix


def test_every_change_that_is_refused_is_named_in_the_order_of_the_keys(refused):
    old = cfg.defaults("detect")
    changes = {"train.seed": 9, "train.steps": 5, "precision": "bfloat16"}
    new = cfg.apply_overrides(old, changes)
    assert refused(cfg.check_resume, old, new) == (
        "the workdir holds another run: precision ('auto' -> 'bfloat16'), train.seed (0 -> 9) "
        "changed; undo the change or use a new --workdir"
    )


def test_a_key_that_only_one_config_has_is_changed():
    old, new = {"task": "detect", "old_key": None}, {"task": "detect", "new_key": None}
    assert cfg.changed_keys(old, new) == ["old_key", "new_key"]
