"""bench predict: a trained model in its workdir beside its exported files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import runs

from convmesh.bench import predict
from convmesh.cli import command_line

pytestmark = pytest.mark.usefixtures("tiny_net")


def test_all_forms_are_measured(photo_run, capsys):
    assert command_line.main(["bench", "predict", "--workdir", str(photo_run), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["images"] == runs.VAL_PHOTOS and numbers["size"] == [20, 24]
    for form in ("onnx", "stablehlo"):
        assert numbers[f"ratio_{form}"] == numbers[form]["median"] / numbers["workdir"]["median"]
        assert numbers[form]["p99"] >= numbers[form]["median"] > 0
    parts = numbers["parts"]
    assert set(parts) == {"resize", "network", "results"}
    assert sum(part["median"] for part in parts.values()) < 2 * numbers["workdir"]["median"]


def test_the_first_round_is_not_counted(monkeypatch, capsys):
    now = 0.0

    def taking(seconds):
        left = [100.0] * 3  # what compiles, in the first round of three images

        def call(*args):
            nonlocal now
            now += left.pop() if left else seconds

        return call

    monkeypatch.setattr(predict.time, "perf_counter", lambda: now)
    monkeypatch.setattr(predict, "_images", lambda source: [np.zeros((4, 6, 3), np.uint8)] * 3)
    monkeypatch.setattr(predict, "_by_parts", taking(0.5))
    files = {"onnx": taking(0.25), "stablehlo": taking(1.0)}
    cost = predict.measure_predict(SimpleNamespace(source=None), files)
    assert (cost.images, cost.size) == (3, (4, 6))
    assert (cost.workdir.median, cost.workdir.p99) == (500, 500)
    assert (cost.ratio("onnx"), cost.ratio("stablehlo")) == (0.5, 2)
    assert cost.onnx.images_per_second == 4


def test_the_table_names_the_parts(photo_run, monkeypatch, capsys):
    latency = predict.Latency(20.0, 40.0)
    cost = predict.PredictCost(
        5, (4, 6), latency, predict.Latency(10.0, 12.0), latency, {"network": latency}
    )
    monkeypatch.setattr(predict, "measure_predict", lambda prepared, files: cost)
    predict.bench_predict(photo_run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 images of 4 x 6, one at a time")
    assert lines[1].split() == ["workdir", "20.0", "40.0", "50.0", "1.00"]
    assert lines[3].split()[-4:] == ["10.0", "12.0", "100.0", "0.50"]


def test_noise_where_the_split_is_gone():
    images = predict._images(None)
    assert {image.shape for image in images} == {(480, 640, 3)}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["predict"], "bench predict: --workdir is missing"),
        (["step"], "bench step: --config is missing"),
        (["predict", "--workdir", "a", "--config", "demo"], "--config"),
        (["eval", "--workdir", "a"], "bench eval: --config is missing"),
    ],
)
def test_what_each_part_needs(capfd, flags, message):
    assert command_line.main(["bench", *flags]) == 2
    assert message in capfd.readouterr().err
