"""Other tools' JSON is named: src/convmesh/data/formats/coco/unlike.py."""

import pytest
from coco_files import config, picture

from convmesh.data.formats.coco.unlike import what_else
from convmesh.data.splits import open_train
from convmesh.errors import DataError

GOOD = {"images": [], "annotations": [], "categories": []}


@pytest.mark.parametrize(
    "document, said",
    [
        (GOOD, ""),
        (GOOD | {"licenses": []}, ""),
        ([], "it is a list"),
        (5, "it is a single value"),
        ({}, "it has no list `images`"),
        ({"images": {}}, "it has no list `images`"),
        ({"Images": [], "annotations": [], "categories": []}, "its list `images` is called `Imag"),
        (
            {"images": [], "annotations": [], "CATEGORIES": []},
            "`categories` is called `CATEGORIES`",
        ),
        ({"data": GOOD}, "it has no list `images`; `data` has one: save what is in `data` alone"),
        ({"dataset": {"Images": []}}, "`dataset` has one"),
        ([{"id": 1, "data": {}, "annotations": []}], "Label Studio"),
        ([{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {}}]}], "CreateML"),
        ([{"image_id": 1, "bbox": [], "score": 0.5}], "a list of detections"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
        ({"shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
        (GOOD | {"annotations": [{"segments_info": []}]}, "panoptic masks"),
        (GOOD | {"annotations": [{"caption": "a cat"}]}, "captions"),
        ({"images": [], "annotations": [{"caption": "a cat"}]}, "it has no list `categories`"),
    ],
)
def test_what_a_document_looks_like(document, said):
    found = what_else(document)
    assert said in found if said else found == ""


def test_the_message_names_the_file(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    path = tmp_path / "annotations" / "train.json"
    path.parent.mkdir()
    path.write_text('[{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}]')
    said = "^annotations/train.json: not in COCO format: it is a list, as Label Studio's own JSON;"
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path))
