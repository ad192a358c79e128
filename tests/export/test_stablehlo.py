"""Programs as StableHLO files: the same numbers for every size, and what damaged files say."""

import io
import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from convmesh.errors import DataError, RunError
from convmesh.export import stablehlo

METADATA = {"classes": ["ant", "bee", "größer"], "licence": "Apache-2.0"}
WEIGHTS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def means_and_best(images):
    """A model in two lines: [batch, 2] and [batch]."""
    scores = images.astype(jnp.float32).mean((1, 2)) @ WEIGHTS
    return {"scores": scores, "best": jax.lax.top_k(scores, 1)[1][:, 0]}


def images(batch, height, width):
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def written():
    return stablehlo.to_stablehlo(means_and_best, "b, h, w, 3", METADATA)


def test_the_program_takes_images_of_any_number_and_size(written):
    loaded = stablehlo.load(written)
    assert loaded.program.platforms == ("cpu", "cuda", "tpu")
    for shape in ((1, 4, 5), (3, 20, 7)):
        found = jax.jit(loaded.program.call)(images(*shape))
        expected = means_and_best(jnp.asarray(images(*shape)))
        assert set(found) == {"scores", "best"}
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5)
        np.testing.assert_array_equal(found["best"], expected["best"])


def test_a_fixed_batch():
    loaded = stablehlo.load(stablehlo.to_stablehlo(means_and_best, "2, h, w, 3", {}))
    assert loaded.program.call(images(2, 9, 4))["scores"].shape == (2, 2)
    with pytest.raises(ValueError):
        loaded.program.call(images(3, 9, 4))


def test_metadata_says_what_it_is(written):
    found = stablehlo.load(written).metadata
    assert found["classes"] == METADATA["classes"] and found["licence"] == "Apache-2.0"
    assert found["input"] == {"shape": ["b", "h", "w", 3], "dtype": "uint8"}
    assert found["outputs"]["scores"] == {"shape": ["b", 2], "dtype": "float32"}
    assert found["outputs"]["best"]["shape"] == ["b"]
    assert found["versions"]["jax"] == jax.__version__
    assert "six months newer and three weeks older" in found["compatibility"]


def test_the_same_program_gives_the_same_bytes(written):
    assert stablehlo.to_stablehlo(means_and_best, "b, h, w, 3", METADATA) == written
    dates = [info.date_time for info in zipfile.ZipFile(io.BytesIO(written)).infolist()]
    assert dates == [(1980, 1, 1, 0, 0, 0)] * 2  # not the time of writing
    assert b".py" not in written  # no folders of the machine that wrote it
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_it_is_read_in_another_process_without_convmesh(written, tmp_path):
    (tmp_path / "model.zip").write_bytes(written)
    np.save(tmp_path / "images.npy", images(2, 6, 5))
    program = f"""
import json, sys, zipfile, jax, jax.export, numpy
archive = zipfile.ZipFile({str(tmp_path / "model.zip")!r})
program = jax.export.deserialize(bytearray(archive.read("program.bin")))
classes = json.loads(archive.read("metadata.json"))["classes"]
found = program.call(numpy.load({str(tmp_path / "images.npy")!r}))
assert "convmesh" not in sys.modules
print(classes[-1], [int(i) for i in found["best"]])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    )
    best = means_and_best(jnp.asarray(images(2, 6, 5)))["best"]
    assert done.stdout.strip() == f"größer {[int(i) for i in best]}"


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"no archive" * 50,
        lambda data: data[:-2000] + bytes([data[-2000] ^ 1]) + data[-1999:],
        lambda data: zipped(other="zip"),
        lambda data: zipped(program_bin=b"x", metadata_json="no json"),
        lambda data: zipped(program_bin=b"x", metadata_json="[]"),
        lambda data: zipped(program_bin=b"x", metadata_json=b"\xff{}"),
        lambda data: zipped(program_bin=bytes(100_000), metadata_json="{}"),
        lambda data: zipped(program_bin=b"x", metadata_json=b" " * 2**24 + b"{}"),
    ],
    ids=["empty", "cut", "foreign", "bit", "members", "text", "list", "bytes", "zeros", "spaces"],
)
def test_damaged_and_foreign_files_are_named_in_a_line(written, damage):
    with pytest.raises(DataError, match="^model.zip: not a StableHLO file of convmesh") as raised:
        stablehlo.load(damage(written), "model.zip")
    assert "\n" not in str(raised.value)


def test_a_program_that_this_jax_cannot_read():
    metadata = json.dumps({"versions": {"jax": "9.9"}})
    data = zipped(program_bin=b"program of the future", metadata_json=metadata)
    message = rf"JAX {jax.__version__} cannot read its program, written by JAX 9\.9 .*six months"
    with pytest.raises(DataError, match=message):
        stablehlo.load(data)


def test_it_says_that_flatbuffers_is_missing(written, monkeypatch):
    def missing(*args, **options):
        raise ModuleNotFoundError("No module named 'flatbuffers'")

    monkeypatch.setattr(export, "deserialize", missing)
    with pytest.raises(RunError, match="pip install flatbuffers"):
        stablehlo.load(written)
    monkeypatch.setattr(export.Exported, "serialize", missing)
    with pytest.raises(RunError, match="pip install flatbuffers"):
        stablehlo.to_stablehlo(means_and_best, "b, 4, 4, 3", {})


def test_an_operation_that_does_not_run_elsewhere_or_later(monkeypatch):
    def calls_back(images):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return {"x": jax.pure_callback(lambda x: np.float32(0), shape, images)}

    with pytest.raises(RunError, match="cannot be written as StableHLO: .*callback"):
        stablehlo.to_stablehlo(calls_back, "2, 4, 4, 3", {})

    def refuse(function, platforms):
        raise ValueError("custom calls whose targets have no compatibility guarantees: lu")

    monkeypatch.setattr(export, "export", refuse)
    with pytest.raises(RunError, match="cannot be written as StableHLO: .*lu"):
        stablehlo.to_stablehlo(means_and_best, "2, 4, 4, 3", {})


def test_a_mistake_in_the_model_is_no_user_error():
    with pytest.raises(ValueError, match="mistake"):
        stablehlo.to_stablehlo(lambda images: int("mistake"), "2, 4, 4, 3", {})
