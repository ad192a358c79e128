"""The boxes of TFDS data sets in their forms: src/convmesh/data/formats/tfds_source.py."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_sets import LABEL, box, config_for, like, png

from convmesh.data.checks.inspection import inspect
from convmesh.data.formats.tfds_source import TfdsSet
from convmesh.errors import DataError


def test_the_area_of_a_clipped_box_is_scaled_to_its_visible_part(tmp_path, monkeypatch):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "objects": tfds.features.Sequence(
                {
                    # TFDS checks no numbers of a box of no stated format.
                    "bbox": tfds.features.BBoxFeature(bbox_format=None),
                    "label": LABEL,
                    "area": np.int64,
                }
            ),
        }
    )
    objects = [
        {"bbox": box(30, 15, 50, 25), "label": 0, "area": 100},  # a quarter of it is in the image
        {"bbox": box(-10, 5, 30, 15), "label": 1, "area": 100},  # three quarters
        {"bbox": box(5, 5, 5, 9), "label": 2, "area": 7},  # dropped
        {"bbox": box(1, 2, 11, 12), "label": 2, "area": 33},
    ]
    like(monkeypatch, tmp_path, features, [{"image": png(), "objects": objects}])
    record = TfdsSet(config_for(tmp_path, "like", on_bad_box="clip")).source("train", True)[0]
    wanted = [[30, 15, 40, 20], [0, 5, 30, 15], [1, 2, 11, 12]]
    np.testing.assert_allclose(record.boxes, wanted, atol=1e-4)
    np.testing.assert_allclose(record.area, [25, 75, 33], rtol=1e-5)
    assert record.area.dtype == np.float32 and record.bad_boxes == 3
    dropped = TfdsSet(config_for(tmp_path, "like", on_bad_box="drop")).source("train", True)[0]
    assert dropped.area.tolist() == [33]


def one_box(monkeypatch, folder, form, values, image=None):
    """A data set of one image of 20 x 40 (height, width) with one box, in the stated form."""
    features = {
        "image": tfds.features.Image(encoding_format="png", dtype=np.uint8),
        "objects": tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(bbox_format=form), "label": LABEL}
        ),
    }
    objects = [{"bbox": np.array(values, np.float64), "label": 1}]
    example = {"image": image or png(), "objects": objects}
    like(monkeypatch, folder, tfds.features.FeaturesDict(features), [example])
    return config_for(folder, "like")


@pytest.mark.parametrize(
    "form, values",
    [
        (None, (0.1, 0.25, 0.6, 0.5)),  # y0 x0 y1 x1, fractions
        ("REL_YXYX", (0.1, 0.25, 0.6, 0.5)),
        ("REL_XYXY", (0.25, 0.1, 0.5, 0.6)),
        ("YXYX", (2, 10, 12, 20)),
        ("XYXY", (10, 2, 20, 12)),
        ("XYWH", (10, 2, 10, 10)),
    ],
)
def test_boxes_are_read_in_the_form_that_the_data_set_states(tmp_path, monkeypatch, form, values):
    made = one_box(monkeypatch, tmp_path, form, values)
    found = TfdsSet(made).source("train", True)[0].boxes
    np.testing.assert_allclose(found, [[10, 2, 20, 12]], atol=1e-5)


@pytest.mark.parametrize(
    "form, values, said",
    [
        (None, (2, 10, 12, 20), "; in pixels? TFDS states boxes as fractions"),
        (None, (0.5, 0.5, 0.2, 0.2), "; with height and width? TFDS states boxes as ymin, xmin"),
        ("XYXY", (10, 2, 50, 12), "drop or clip$"),  # a mistake, in the stated form
    ],
)
def test_boxes_in_another_form_are_refused_by_it(tmp_path, monkeypatch, form, values, said):
    made = one_box(monkeypatch, tmp_path, form, values)
    with pytest.raises(DataError, match=said.replace("?", "[?]")):
        TfdsSet(made).source("train", True)[0]


def test_a_nearly_black_image_is_reported(tmp_path, monkeypatch):
    values = np.linspace(0, 4095, 800).astype(np.uint16).reshape(20, 40)
    dark = cv2.imencode(".png", values)[1].tobytes()
    made = one_box(monkeypatch, tmp_path, "XYXY", (10, 2, 20, 12), dark)
    made.data.eval_split = "train"
    [finding] = [finding for finding in inspect(made).findings if finding.kind == "depth"]
    assert "nearly black: 16 bits a channel, of which 12 or fewer are used" in str(finding)
