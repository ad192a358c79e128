"""bench input: images per second of the recipe's input, beside decoding alone."""

import pytest

from convmesh.bench import input
from convmesh.config import apply_overrides, defaults
from convmesh.errors import DataError


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
