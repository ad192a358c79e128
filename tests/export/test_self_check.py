"""What the check of an exported file calls the same, and what it refuses."""

import dataclasses

import exported_models
import jax
import numpy as np
import pytest

from convmesh.export.exporting import write
from convmesh.export.program import metadata
from convmesh.export.self_check import TOLERANCES, Differences, ExportDiffers, compare, hard_images
from convmesh.inference.prediction import Detector

STRICT = TOLERANCES["float32"]


def detections(**changes):
    found = {
        "boxes": np.array([[10, 10, 50, 50], [60, 20, 90, 80], [0, 0, 9, 9]], np.float32),
        "labels": np.array([0, 1, 0], np.int32),
        "scores": np.array([0.9, 0.5, 0.01], np.float32),
    }
    found |= {name: found["scores"].copy() for name in ("box_confidence", "class_confidence")}
    for name, (index, value) in changes.items():
        found[name] = found[name].copy()
        found[name][index] = value
    return found


def differences(ours, theirs):
    found = Differences(STRICT)
    found.add("a.jpg", ours, theirs)
    return found


def test_equal_detections_pass_in_any_order():
    theirs = {name: value[[1, 0, 2]] for name, value in detections().items()}
    found = differences(detections(), theirs)
    found.check()
    assert (found.images, found.compared, found.alone) == (1, 2, 0)


def test_small_differences_are_measured():
    found = differences(detections(), detections(boxes=((0, 2), 50.25), scores=(1, 0.5004)))
    found.check()
    assert found.pixels == pytest.approx(0.25) and found.score == pytest.approx(4e-4, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": ((0, 2), 50.75)},
        {"scores": (1, 0.502)},
        {"box_confidence": (0, 0.95)},
        {"class_confidence": (1, 0.45)},
        {"labels": (0, 1)},
        {"scores": (2, 0.3)},
        {"boxes": ((0, 2), np.nan)},
        {"scores": (0, np.nan)},
    ],
)
def test_what_is_beyond_the_tolerance_is_refused(changes):
    with pytest.raises(ExportDiffers, match="where they differ: a.jpg.*nothing was written"):
        differences(detections(), detections(**changes)).check()


def test_the_best_of_an_image_are_compared_however_low_their_scores():
    scores = {"scores": (slice(None), [0.012, 0.011, 0.002])}
    ours = detections(**scores)
    moved = detections(boxes=(slice(None), ours["boxes"] * 0.5 + 37), **scores)
    found = differences(ours, detections(**scores))
    found.check()
    assert found.compared == 2  # from half of the best
    found = differences(ours, moved)
    assert (found.low, found.low_alone) == (2, 4)
    found.check()
    found.add("b.jpg", ours, moved)
    with pytest.raises(ExportDiffers):
        found.check()
    found = Differences(STRICT, lowest=0.0105)
    found.add("a.jpg", ours, moved)
    assert found.compared == 1  # what is just above may be just below


def test_one_of_low_score_that_only_the_file_has():
    ours, theirs = detections(scores=(0, 0.012)), detections(scores=(0, 0.012))
    lone = {name: value[:1] for name, value in ours.items()}
    both = {name: value[[0, 0]].copy() for name, value in theirs.items()}
    both["boxes"][1] += 100
    assert differences(lone, both).low_alone == 1
    assert differences(both, lone).low_alone == 1
    found = Differences(STRICT)
    for _ in range(100):
        found.add("a.jpg", lone, lone)
    for _ in range(5):
        found.add("b.jpg", lone, both)
    found.check()
    for _ in range(5):
        found.add("b.jpg", lone, both)
    with pytest.raises(ExportDiffers, match="b.jpg"):
        found.check()


def test_a_grave_fault_shows_with_an_untrained_detector(tmp_path):
    program = exported_models.random_program("detector_tiny", 64)
    setup = program.setup
    program = dataclasses.replace(
        program, variables=jax.device_get(setup.create_state().variables())
    )
    about = metadata(setup, "float32", "inside")
    run = write(program, about, tmp_path / "a.onnx", "onnx")
    predict = Detector(setup, program.variables, 1).found
    said = []
    compare(run, predict, setup, None, STRICT, said.append)
    assert len(said) == 1 and "6 images, 60 results" in said[0]

    def wrong(image):
        found = run(image)
        return found | {"boxes": found["boxes"] * 0.5 + 37}

    with pytest.raises(ExportDiffers, match="does not find what the run does"):
        compare(wrong, predict, setup, None, STRICT, said.append)


def nothing(*_):
    return {name: value[:0] for name, value in detections().items()}


def padded(_):
    return {
        name: value[None] for name, value in (detections() | {"valid": np.zeros(3, bool)}).items()
    }


@dataclasses.dataclass
class SetupOf:
    """What `compare` asks of a setup without a split."""

    config: object
    task: object = None


@dataclasses.dataclass
class ConfigOf:
    """Its config."""

    task: str


def test_it_is_said_where_there_is_nothing_to_compare():
    said = []
    compare(
        padded,
        lambda images: iter([nothing()]),
        SetupOf(ConfigOf("detect")),
        None,
        STRICT,
        said.append,
    )
    assert "finds only 0 objects in these 6 images, so that they hardly check the file" in said[1]


@pytest.mark.parametrize("spread, lines", [(0.005, 2), (0.5, 1)])
def test_it_is_said_where_probabilities_hardly_depend_on_the_image(spread, lines):
    def probabilities(image):
        first = 0.3 + spread * image.mean() / 255
        return np.array([first, 1 - first])

    def found(images):
        return iter([{"labels": np.array([0, 1]), "scores": probabilities(images[0])}])

    def run(image):
        return {"probabilities": probabilities(image)[None]}

    said = []
    compare(run, found, SetupOf(ConfigOf("classify")), None, STRICT, said.append)
    assert len(said) == lines
    assert "hardly depend on the image" in said[-1] or lines == 1


def test_probabilities_are_compared_by_class():
    ours = {"labels": np.array([2, 0, 1]), "scores": np.array([0.6, 0.3, 0.1])}
    theirs = {"labels": np.array([2, 1, 0]), "scores": np.array([0.6, 0.1, 0.3])}
    differences(ours, theirs).check()
    theirs["scores"] = np.array([0.598, 0.102, 0.3])
    with pytest.raises(ExportDiffers):
        differences(ours, theirs).check()


def test_a_detection_in_five_hundred_may_differ():
    found = Differences(STRICT)
    for _ in range(250):
        found.add("a.jpg", detections(), detections())
    found.add("b.jpg", detections(), detections(scores=(1, 0.6)))
    found.compared = 1000  # one is lost, one is new
    found.check()
    found.compared = 999
    with pytest.raises(ExportDiffers, match="b.jpg"):
        found.check()


def test_hard_images_are_of_unlike_sizes():
    sizes = {image.shape[:2] for _, image in hard_images()}
    assert {(1, 1), (120, 600), (600, 120), (1300, 1900)} <= sizes
    assert all(image.dtype == np.uint8 for _, image in hard_images())
