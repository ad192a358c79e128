"""bench input: images per second of the recipe's input, beside decoding alone."""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from convmesh.bench import input
from convmesh.config import apply_overrides, defaults, to_json
from convmesh.distributed.batch import Batch
from convmesh.errors import ConfigError, DataError


def test_input_counts_images_of_every_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(input, "SECONDS", 0.05)
    monkeypatch.setattr(input, "WARM_UP", 0.05)
    monkeypatch.setattr(input, "ROUNDS", 1)
    input.make_pictures(tmp_path, 4)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 4 and {path.parent.name for path in files} == {"a", "b"}
    config = apply_overrides(
        defaults("classify"), {"data.root": str(tmp_path), "train.batch_size": 2}
    )
    cost = input.measure_input(config, files, [0])
    assert cost.ratio == cost.workers[0] / cost.ceiling > 0
    assert cost.torch_ratio is None
    table = input.input_table(cost)
    assert "the ceiling" in table and "data.workers=0 (threads)" in table


def test_images_per_second_is_of_the_images_after_the_warm_up(monkeypatch):
    clock = iter([0.0, 0.5, 2.0, 2.0, 3.0, 5.5])
    monkeypatch.setattr(input.time, "perf_counter", lambda: next(clock))
    # Warm until 2.0; then 7 images by 3.0 and 8 more by 5.5.
    assert input.images_per_second([100, 100, 7, 8, 9]) == 15 / 3.5


def test_a_loader_that_ends_too_soon_is_an_error():
    with pytest.raises(DataError, match="ended before it was timed"):
        input.images_per_second([8, 8])


def cost(torch=()):
    return input.InputCost(cores=3, ceiling=200.0, workers={0: 50.0, 2: 150.0}, torch=dict(torch))


def test_ratios_are_of_the_best_number_of_workers():
    assert cost().ratio == 0.75 and cost().torch_ratio is None
    assert cost({1: 60.0, 3: 100.0}).torch_ratio == 1.5
    lines = input.input_table(cost({1: 60.0, 3: 100.0})).splitlines()
    assert [line.split()[-2:] for line in lines[1:-1]] == [
        ["200", "1.00"], ["50", "0.25"], ["150", "0.75"], ["60", "0.30"], ["100", "0.50"],
    ]  # fmt: skip
    assert lines[0].startswith("on 3 cores") and "(threads)" not in lines[3]
    assert lines[-1] == "1.50 times as fast as torch's, each at its best"


def test_rounds_alternate_and_their_medians_count(monkeypatch):
    calls, speeds = [], {}

    def timed(name, values):
        speeds[name] = iter(values)

        def measure(*args):
            calls.append((name, args[-1]))
            return next(speeds[name])

        return measure

    monkeypatch.setattr(input, "usable_cores", lambda: 3)
    monkeypatch.setattr(input, "_decoded", timed("decoded", [1.0, 9.0, 2.0]))
    monkeypatch.setattr(input, "_loaded", timed("ours", [5.0, 4.0, 7.0]))
    monkeypatch.setattr(input, "_torch_loaded", timed("torch", [1.0, 2.0, 8.0, 4.0, 3.0, 9.0]))
    found = input.measure_input(defaults("classify"), [], [2], compare=True)
    assert calls == [("decoded", 3), ("ours", 2), ("torch", 1), ("torch", 3)] * 3
    assert found == input.InputCost(cores=3, ceiling=2.0, workers={2: 5.0}, torch={1: 3.0, 3: 4.0})


def test_images_are_read_anew_and_by_that_many_workers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(input, "open_train", seen.append)
    monkeypatch.setattr(
        input, "train_batches", lambda source, config: contextlib.nullcontext([Batch(image=[1, 2])])
    )
    monkeypatch.setattr(input, "images_per_second", list)
    config = apply_overrides(defaults("classify"), {"data.root": str(tmp_path)})
    assert input._loaded(config, 5) == [2]  # images of a batch
    assert (seen[0].data.workers, seen[0].data.cache) == (5, "false")


def test_the_ceiling_resizes_to_height_and_width(tmp_path, monkeypatch):
    input.make_pictures(tmp_path, 3)
    sizes, clock = [], iter([0.0, 0.0, 1.0, 3.5, 4.0])
    monkeypatch.setattr(input.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(input.cv2, "resize", lambda image, size: sizes.append(size))
    files = sorted(tmp_path.rglob("*.jpg"))
    # Two passes over the three pictures begin in less than 3 seconds; they take 4.
    assert input._decoded(files, (16, 24), 1) == 6 / 4
    assert sizes == [(24, 16)] * 6


def test_a_tfds_set_and_a_folder_without_jpegs_are_refused(tmp_path):
    named = apply_overrides(defaults("classify"), {"data.name": "digit_scenes/tiny"})
    with pytest.raises(ConfigError, match="bench input: reads image files, not TFDS sets"):
        input.bench_input(named)
    (tmp_path / "a.png").touch()
    config = apply_overrides(defaults("classify"), {"data.root": str(tmp_path)})
    with pytest.raises(DataError, match=f"{tmp_path}: no JPEG files"):
        input.bench_input(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.augment.policy": "randaugment"}, "data.augment.policy=randaugment .* to nothing"),
        ({"data.augment.rotate": 5}, "data.augment.rotate=5.0 is not supported; set it to 0"),
        ({"data.sizes": (0.5, 1.0)}, "data.sizes is not supported; set it to nothing"),
        ({"task": "detect", "model.name": "detector_nano"}, "only recipes of classifiers"),
    ],
)
def test_torch_is_not_compared_where_it_would_do_less(changes, message, tmp_path):
    config = apply_overrides(defaults("classify"), {"data.root": str(tmp_path)} | changes)
    with pytest.raises(ConfigError, match=f"^bench input --compare torch: {message}"):
        input.bench_input(config, compare="torch")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_recipe_is_measured_with_up_to_as_many_workers_as_cores(
    as_json, tmp_path, monkeypatch, capsys
):
    for name in ("a.jpg", "b.JPEG", "c.png"):
        (tmp_path / name).touch()
    seen = []
    monkeypatch.setattr(input, "usable_cores", lambda: 6)
    measured = lambda config, *rest: seen.append(rest) or cost()  # noqa: E731
    monkeypatch.setattr(input, "measure_input", measured)
    config = apply_overrides(defaults("classify"), {"data.root": str(tmp_path)})
    assert input.bench_input(config, as_json) == cost()
    assert seen == [([tmp_path / "a.jpg", tmp_path / "b.JPEG"], [0, 1, 2, 6], False)]
    printed = capsys.readouterr().out
    if as_json:
        numbers = json.loads(printed)
        assert (numbers["ratio"], numbers["torch_ratio"]) == (0.75, None)
        assert numbers["workers"] == {"0": 50.0, "2": 150.0} and numbers["ceiling"] == 200.0
    else:
        assert printed == input.input_table(cost()) + "\n"


@pytest.mark.parametrize("code", [0, 1])
def test_the_loader_of_torch_is_timed_in_its_own_process(code, monkeypatch):
    seen = []

    def run(command, **options):
        seen.append((command, options["input"]))
        return subprocess.CompletedProcess(command, code, stdout="12.5\n")

    monkeypatch.setattr(input.subprocess, "run", run)
    config = defaults("classify")
    if code:
        with pytest.raises(DataError, match="--compare torch: its process failed"):
            input._torch_loaded(config, [], 4)
    else:
        assert input._torch_loaded(config, [Path("a.jpg")], 4) == 12.5
    command, given = seen[0]
    assert command[1:] == ["-m", "convmesh.bench.torch_input", "4"]
    assert json.loads(given) == [to_json(config), [] if code else ["a.jpg"]]
