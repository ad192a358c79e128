"""Layouts that are refused by their names: src/convmesh/data/formats/unread.py."""

import os

import pytest

from convmesh.config import defaults
from convmesh.data.formats import registry
from convmesh.data.formats.unread import LAYOUTS, explain, find
from convmesh.errors import ConfigError, ConvmeshError

BOTH = ("classify", "detect")
ROW = "0 0.5 0.5 0.2 0.2\n"
KITTI = "Car 0.00 0 1.55 10.0 12.0 30.0 40.0 1 1 1 1 1 1 0.0\n"
# Forms of other tools and public data sets, as below.
OTHER_TOOLS = [
    ({"images/a.jpg": "", name: text}, what, tasks)
    for name, text, what, tasks in [
        ("j/a.json", '{"item": {}, "annotations": [{"bounding_box": {"x": 1}}]}', "Darwin", BOTH),
        ("v/x-asset.json", '{"asset": {"name": "a.jpg"}, "regions": []}', "VoTT", BOTH),
        ("v/x.json", '{"assets": {"a": {"asset": {"name": "a.jpg"}}}}', "VoTT", BOTH),
        ("a.jpg___objects.json", '{"instances": [{"className": "x"}]}', "SuperAnnotate", BOTH),
        ("a.json", '{"info": {"description": "ISAT"}, "objects": []}', "ISAT JSON", BOTH),
        ("samples.json", '{"samples": [{"filepath": "a.jpg"}]}', "FiftyOne JSON", BOTH),
        ("j/l.json", '{"labels": {"a": [{"bounding_box": [0.1]}]}}', "FiftyOne JSON", BOTH),
        ("j/d.json", '{"categories": {"label": {"labels": []}}}', "Datumaro JSON", BOTH),
        ("j/a.json", '{"filename": "/a.jpg", "x": [{"coordinates": [{}]}]}', "Dataloop", BOTH),
        ("p.json", '[{"image": "a.jpg", "label": [{"rectanglelabels": ["x"]}]}]', "Label", BOTH),
        ("j/bdd.json", '[{"name": "a.jpg", "labels": [{"box2d": {}}]}]', "BDD100K JSON", BOTH),
        ("x.ndjson", '{"data_row": {"id": "x"}}', "Labelbox JSON", BOTH),
        ("x.ndjson", '{"type": "dataset", "task": "detect"}', "Ultralytics NDJSON", BOTH),
        ("output.manifest", '{"source-ref": "s3://b/a.jpg"}', "a manifest of SageM", BOTH),
        ("bounding_boxes.labels", '{"type": "bounding-box-labels"}', "Edge Impulse labels", BOTH),
        ("_annotations.train.jsonl", '{"image": "a.jpg", "prefix": "x"}', "Roboflow JSONL", BOTH),
        ("images/metadata.jsonl", '{"file_name": "a.jpg"}', "metadata of a Hugging Face", BOTH),
        ("x.jsonl", '{"image": "a.jpg"}', "JSON lines", BOTH),
        ("x.odgt", '{"ID": "a", "gtboxes": []}', "ODGT", BOTH),
        ("m/gt/gt.txt", "1,1,2,3,4,5,1,1,1\n", "tracks of the MOT Challenge", BOTH),
        ("m/seqinfo.ini", "[Sequence]\n", "tracks of the MOT Challenge", BOTH),
        ("b/a.txt", "# Compatible with PASCAL Annotation Version 1.00\n", "PASCAL Anno", BOTH),
        ("b/x.txt", "0--P/a b.jpg\n1\n449 330 122 149 0 0 0 0 0 0\n", "WIDER FACE", BOTH),
        ("label_2/a.txt", KITTI, "KITTI labels", BOTH),
        ("labelTxt/a.txt", "imagesource:G\ngsd:0.1\n", "DOTA's oriented boxes", BOTH),
        ("labelTxt/a.txt", "1 1 30 1 30 30 1 30 plane 0\n", "DOTA's oriented boxes", BOTH),
        ("b/a.txt", "10,12,20,20,1,4,0,0\n", "VisDrone labels", BOTH),
        ("b/a.txt", "Traffic light 1.0 2.0 30.5 40\n", "class names with boxes", BOTH),
        ("_annotations.txt", "a.jpg 1,2,30,40,0 3,4,20,30,1\n", "lists of images and b", BOTH),
        ("images_box.txt", "1025794 3 144 998 431\n", "FGVC-Aircraft", BOTH),
        ("b.json", '{"a": {"bbox": [{"xmin": 1}]}}', "JSON of boxes in a form", ("detect",)),
    ]
]
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
    *OTHER_TOOLS,
    (
        {"JPEGImages/a.jpg": "", "SegmentationClass/a.png": ""},
        "masks instead of boxes",
        ("detect",),
    ),
]


def parts(files):
    """Return each name, and the same without its first folder."""
    return [(name, name.partition("/")[2]) for name in files]


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
    assert f": {what}" in message, message
    assert "class folders" not in message or task == "classify"
    assert "set task to classify" not in message, message
    after = message.split(f": {what}")[1]
    assert any(f"({name})" in after or f"({inner})" in after for name, inner in parts(files))


def test_every_layout_of_the_table_has_a_case():
    covered = {(what, task) for _, what, tasks in CASES for task in tasks}
    missing = {
        layout.what
        for layout in LAYOUTS
        if not any(
            any(layout.what.startswith(what) and task == one for what, one in covered)
            for task in ([layout.task] if layout.task else BOTH)
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
    assert explain(tmp_path / "empty", "classify") == "it is empty: no files in it"
    (tmp_path / "empty" / "train").mkdir()
    assert explain(tmp_path / "empty", "detect") == "its folders are empty"


def test_an_archive_beside_images_is_what_they_came_from(tmp_path):
    make(tmp_path, {"a.jpg": "", "x.zip": ""})
    assert find(tmp_path, "detect") is None


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    assert find(tmp_path, "detect", suffix=".json") is None


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


@pytest.mark.parametrize(
    "files, classes",
    [
        ({"cat/a.jpg": "", "dog/b.jpg": "", "README.txt": "", "LICENSE": ""}, True),
        ({"cat/a.jpg": "", "notes/a.txt": "boxes\n"}, False),
        ({"cat/readme.md": ""}, False),
    ],
)
def test_classes_are_suggested_only_for_folders_of_images_alone(tmp_path, files, classes):
    make(tmp_path, files)
    config = defaults("detect")
    config.data.root = str(tmp_path)
    with pytest.raises(ConfigError) as caught:
        registry.open_dataset(config)
    assert ("set task to classify" in str(caught.value)) == classes


@pytest.mark.parametrize("row", ["1025794 3 144 998 431\n", "1 60.0 27.0 325.0 304.0\n"])
def test_four_pixels_are_no_yolo_labels(tmp_path, row):
    make(tmp_path, {"images/a.jpg": "", "bounding_boxes.txt": row})
    found = find(tmp_path, "classify")
    assert found is None or "YOLO" not in found[0].what
    make(tmp_path, {"x/b.txt": "0 1 .5 0.25 1e-3\n"})
    assert find(tmp_path, "classify")[0].what == "YOLO labels"


def test_cocos_own_json_is_none_of_the_table(tmp_path):
    text = (
        '{"info": {"description": "x"}, "annotations": [{"bbox": [1, 2, 3, 4], "image_id": 1}],'
        ' "images": [{"file_name": "a.jpg"}], "categories": [{"name": "x"}]}'
    )
    make(tmp_path, {"a.jpg": "", "mine.json": text, "r.json": '[{"image_id": 1, "bbox": []}]'})
    assert find(tmp_path, "detect", suffix=".json") is None
