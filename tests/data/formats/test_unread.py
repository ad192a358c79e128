"""Layouts that are refused by their names: src/convmesh/data/formats/unread.py."""

import os

import pytest

from convmesh.config import defaults
from convmesh.data.formats import registry
from convmesh.data.formats.unread import LAYOUTS, explain, find
from convmesh.errors import ConfigError, ConvmeshError

BOTH = ("classify", "detect")
ROW = "0 0.5 0.5 0.2 0.2\n"
# Files of a layout -> name of the layout, and the tasks for which it is refused by this name.
CASES = [
    (
        {"train/a.jpg": "", "train/via_region_data.json": "{}"},
        "VGG Image Annotator (VIA) JSON",
        BOTH,
    ),
    ({"a.jpg": "", "x.json": '{"_via_settings": {}}'}, "VGG Image Annotator (VIA) JSON", BOTH),
    (
        {"a.jpg": "", "x.csv": "filename,file_size,region_shape_attributes\n"},
        "VGG Image Annotator (VIA) CSV",
        BOTH,
    ),
    ({"train/a.jpg": "", "train/_annotations.createml.json": "[]"}, "CreateML JSON", BOTH),
    ({"a.jpg": "", "x.json": '[{"coordinates": {"x": 1}}]'}, "CreateML JSON", BOTH),
    ({"ds/img/a.jpg": "", "ds/ann/a.jpg.json": "{}", "meta.json": "{}"}, "Supervisely JSON", BOTH),
    ({"a.jpg": "", "p.json": '[{"result": [{"from_name": "x"}]}]'}, "Label Studio JSON", BOTH),
    (
        {"1.0.0/features.json": "{}", "1.0.0/dataset_info.json": ""},
        "a prepared TFDS data set",
        BOTH,
    ),
    ({"train/x.tfrecord": "", "train/map.pbtxt": ""}, "TFRecord files", BOTH),
    ({"x.tfrecord-00000-of-00002": ""}, "TFRecord files", BOTH),
    ({"data/train-00000-of-00001.parquet": ""}, "Parquet files", BOTH),
    ({"train/data-00000-of-00001.arrow": "", "train/state.json": "{}"}, "Arrow files", BOTH),
    ({"train/data.mdb": "", "train/lock.mdb": ""}, "an LMDB database", BOTH),
    ({"train_32x32.mat": ""}, "MATLAB files", BOTH),
    ({"train.h5": ""}, "HDF5 files", BOTH),
    ({"train-images-idx3-ubyte.gz": "", "map.csv": "a,b\n"}, "MNIST's idx files", BOTH),
    ({"data_batch_1": "", "batches.meta": ""}, "CIFAR's pickled batches", BOTH),
    ({"train": "", "test": "", "meta": ""}, "CIFAR's pickled batches", BOTH),
    ({"x.npz": ""}, "NumPy arrays", BOTH),
    ({"x.pkl": ""}, "pickled Python objects", BOTH),
    ({"x.zip": ""}, "an archive", BOTH),
    (
        {"train/a.jpg": "", "train/_annotations.csv": "filename,width,class,xmin,ymin\n"},
        "a CSV table of boxes",
        BOTH,
    ),
    ({"images/a.jpg": "", "x.csv": "images/a.jpg,1,2,30,40,cat\n"}, "a CSV table of boxes", BOTH),
    ({"train/a.jpg": "", "train.csv": "image_id,bbox,source\n"}, "a CSV table of boxes", BOTH),
    ({"a.jpg": "", "labels.csv": "image,label\na.jpg,cat\n"}, "a table of labels", ("classify",)),
    ({"a.jpg": "", "labels.csv": "image,label\na.jpg,cat\n"}, "a table", ("detect",)),
    ({"train/a.jpg": "", "train.csv": "id,label\na,1\n"}, "a table of labels", ("classify",)),
    ({"images/a.jpg": "", "train.txt": "images/a.jpg 3\n"}, "a list of labels", ("classify",)),
    ({"images/a.jpg": "", "train_labels.json": '{"a.jpg": 1}'}, "JSON labels", ("classify",)),
    ({"train/a.jpg": "", "boxes/a.txt": ROW}, "YOLO labels", ("classify",)),
    ({"images/a.jpg": "", "x.json": '{"images": []}'}, "COCO annotations", ("classify",)),
    ({"images/a.jpg": "", "masks/a.png": ""}, "masks instead of boxes", BOTH),
    (
        {"JPEGImages/a.jpg": "", "SegmentationClass/a.png": ""},
        "masks instead of boxes",
        ("detect",),
    ),
]


def make(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "files, what, task", [(files, what, task) for files, what, tasks in CASES for task in tasks]
)
def test_a_layout_that_is_not_read_is_refused_by_name(tmp_path, files, what, task):
    root = make(tmp_path / "root", files)
    config = defaults(task)
    config.data.root = str(root)
    with pytest.raises(ConvmeshError) as caught:
        registry.open_dataset(config)
    message = str(caught.value)
    assert f": {what} (" in message, message
    assert "class folders" not in message or task == "classify"
    named = message.split(f": {what} (")[1].split(")")[0]
    assert any(file.endswith(named) for file in files)


def test_every_layout_of_the_table_has_a_case():
    covered = {(what, task) for _, what, tasks in CASES for task in tasks}
    missing = {
        layout.what
        for layout in LAYOUTS
        if not any(
            (layout.what, task) in covered for task in ([layout.task] if layout.task else BOTH)
        )
    }
    # These two are for arrangements of boxes that the readers of YOLO and VOC do not know.
    assert missing == {"YOLO labels in folders of another arrangement", "XML annotations"}


@pytest.mark.parametrize(
    "task, what", [("detect", "YOLO labels in folders of"), ("classify", "XML")]
)
def test_labels_in_an_unknown_arrangement_are_named(tmp_path, task, what):
    make(tmp_path, {"x/y/z/a.jpg": "", "x/y/z/a.txt": ROW, "x/b.xml": "<a/>"})
    if task == "classify":
        (tmp_path / "x/y/z/a.txt").unlink()
    assert f": {what}" in explain(tmp_path, task)


def test_what_was_found_is_counted_by_kind(tmp_path):
    make(
        tmp_path, dict.fromkeys(["a/1.jpg", "a/2.PNG", "b/3.jpg", "n.md", "LICENSE", "b/x.md"], "")
    )
    assert explain(tmp_path, "detect") == (
        "found 3 images (a/1.jpg), 2 .md files (n.md), 1 file (LICENSE); convert it to COCO JSON,"
        " Pascal VOC XML or YOLO text, see docs/data.md"
    )
    make(tmp_path, {f"many/{i}/a.jpg": "" for i in range(60)})
    assert explain(tmp_path, "detect").startswith("found more than 53 images (a/1.jpg), 2")
    (tmp_path / "empty").mkdir()
    assert explain(tmp_path / "empty", "classify").startswith("found no files; put the images of")


def test_an_archive_beside_images_is_what_they_came_from(tmp_path):
    make(tmp_path, {"a.jpg": "", "x.zip": ""})
    assert find(tmp_path, "detect") is None


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    assert find(tmp_path, "detect") is None


def test_the_way_out_of_a_refusal_for_boxes(tmp_path):
    make(tmp_path, {"train/a.jpg": "", "train/a.csv": "filename,xmin,ymin,xmax,ymax,class\n"})
    config = defaults("detect")
    config.data.root = str(tmp_path)
    with pytest.raises(ConfigError) as caught:
        registry.open_dataset(config)
    assert str(caught.value) == (
        f"data.root: {tmp_path} has no known layout of boxes; found 1 image (train/a.jpg), 1 .csv"
        " file (train/a.csv): a CSV table of boxes (train/a.csv); not read: convert it to COCO"
        " JSON, Pascal VOC XML or YOLO text, see docs/data.md"
    )
