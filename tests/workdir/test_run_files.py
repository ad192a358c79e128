"""config.json and classes.json of another version, or edited by hand."""

import json

import pytest

from convmesh.config import apply_overrides, defaults, to_json
from convmesh.errors import DataError
from convmesh.workdir import checksums, run_files
from convmesh.workdir.layout import Workdir
from convmesh.workdir.run_files import check_same_model, check_same_run

CLASSES = ("ant", "bee")


def config(**changes):
    values = {"model.name": "small_cnn", "ema.decay": -1.0}
    return apply_overrides(
        defaults("classify"), values | {k.replace("__", "."): v for k, v in changes.items()}
    )


def meta(**more):
    trained = json.loads(to_json(config()))
    return {"config": trained, "classes": list(CLASSES), "convmesh": run_files.version()} | more


def write(root, edit, saved=None):
    """A run whose config.json was changed by `edit`, and the meta of its checkpoint of step 9."""
    workdir = Workdir(root)
    workdir.write_run(config(), CLASSES)
    tree = json.loads(workdir.config_file.read_text())
    edit(tree)
    workdir.config_file.write_text(json.dumps(tree))
    if saved is not None:
        folder = root / "checkpoints" / "9" / "meta"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(json.dumps(saved))
        checksums.write_checksums(folder.parent)
    return workdir


def of_a_newer_version(tree):
    tree["train"]["sharpness_aware"] = 0.1
    tree["colour"] = {"space": "lab"}


def test_a_key_of_another_version_is_named(tmp_path):
    version = run_files.version()
    workdir = write(tmp_path, of_a_newer_version, meta(convmesh="99.1"))
    with pytest.raises(DataError) as raised:
        workdir.read_config()
    assert str(raised.value) == (
        f"{tmp_path}/config.json: convmesh {version} has no keys train.sharpness_aware, "
        f"colour.space: the file is of another version (saved by convmesh 99.1, this is {version})"
        ", or was edited; use that version, or remove the keys from the file"
    )


def test_a_key_that_was_mistyped_is_named(tmp_path):
    workdir = write(tmp_path, lambda tree: tree["train"].update(batch_sise=8))
    with pytest.raises(DataError, match="or was edited; did you mean train.batch_size.; use that"):
        workdir.read_config()


def test_a_value_of_another_version_is_named(tmp_path):
    workdir = write(tmp_path, lambda tree: tree["schedule"].update(name="step"), meta(convmesh="9"))
    with pytest.raises(
        DataError, match="config.json: schedule.name: got .*saved by convmesh 9, this"
    ):
        workdir.read_config()


def without_keys(tree):
    del tree["train"]["frozen_stages"], tree["ema"]


def test_missing_keys_take_their_defaults_which_is_said_once(tmp_path, capsys):
    workdir = write(tmp_path, without_keys)
    for _ in range(2):
        assert workdir.read_config() == config(ema__decay=0.998)
    assert capsys.readouterr().err == (
        f"{tmp_path}/config.json: has no train.frozen_stages (0), ema.decay (0.998): their "
        "defaults are taken\n"
    )


def test_missing_keys_are_those_of_the_checkpoint_where_it_knows_them(tmp_path, capsys):
    saved = meta()
    del saved["config"]["train"]["frozen_stages"]
    workdir = write(tmp_path, without_keys, saved)
    assert workdir.read_run() == (config(), CLASSES)
    assert capsys.readouterr().err == (
        f"{tmp_path}/config.json: has no ema.decay (-1.0): their values are taken from the newest "
        f"checkpoint\n{tmp_path}/config.json: has no train.frozen_stages (0): their defaults are "
        "taken\n"
    )


def test_another_backbone_is_named(tmp_path):
    now = apply_overrides(defaults("detect"), {"model.backbone": "resnet18"})
    saved = meta(config=json.loads(to_json(defaults("detect"))))
    said = "config.json: model.backbone is resnet18, but the newest checkpoint was trained with"
    with pytest.raises(DataError, match=said):
        check_same_model(now, CLASSES, saved, tmp_path)


def test_a_whole_file_says_nothing(tmp_path, capsys):
    assert write(tmp_path, lambda tree: None, meta()).read_run() == (config(), CLASSES)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model__name": "resnet18"}, "model.name is resnet18, but .* trained with small_cnn"),
        ({"ema__decay": 0.0}, "ema.decay is 0.0, but the newest checkpoint was trained with -1.0"),
    ],
    ids=str,
)
def test_another_model_is_named(tmp_path, changes, said):
    changes = {key.replace("__", "."): value for key, value in changes.items()}

    def edit(tree):
        for key, value in changes.items():
            group, name = key.split(".")
            tree[group][name] = value

    workdir = write(tmp_path, edit, meta())
    with pytest.raises(DataError, match=f"config.json: {said}.*; put .* back"):
        workdir.read_run()


def test_another_number_of_classes_is_named(tmp_path):
    workdir = write(tmp_path, lambda tree: None, meta())
    workdir.classes_file.write_text('["ant", "bee", "cat"]')
    said = "classes.json: it has 3 classes, but the newest checkpoint was trained with 2, ant, bee"
    with pytest.raises(DataError, match=said):
        workdir.read_run()


def test_a_damaged_meta_proves_nothing(tmp_path):
    workdir = write(tmp_path, lambda tree: tree["model"].update(name="resnet18"), meta())
    path = tmp_path / "checkpoints" / "9" / "meta" / "metadata"
    path.write_text(path.read_text().replace("bee", "fly"))
    assert workdir.read_run()[0].model.name == "resnet18"


@pytest.mark.parametrize("saved", [{}, {"config": None}, {"config": {"task": "sing"}}], ids=str)
def test_a_meta_without_a_config_is_not_compared(tmp_path, saved):
    check_same_model(config(model__name="resnet18"), CLASSES, saved, tmp_path)
    check_same_run(config(model__name="resnet18"), CLASSES, saved, tmp_path)


def test_a_resumed_run_compares_what_may_not_change(tmp_path):
    check_same_run(config(train__steps=7, eval__every_steps=3), CLASSES, meta(), tmp_path)
    check_same_run(config(), None, meta(), tmp_path)
    said = "config.json: data.augment.flip is 0.25, but the newest checkpoint was trained with 0.5"
    with pytest.raises(DataError, match=said):
        check_same_run(config(data__augment__flip=0.25), CLASSES, meta(), tmp_path)
    said = "classes.json: it has the classes bee, ant, but .* with ant, bee"
    with pytest.raises(DataError, match=said):
        check_same_run(config(), CLASSES[::-1], meta(), tmp_path)


def test_an_edited_augmentation_does_not_matter_to_an_evaluation(tmp_path):
    check_same_model(config(data__augment__flip=0.25), CLASSES, meta(), tmp_path)
