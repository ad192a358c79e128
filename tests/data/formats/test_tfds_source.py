"""Prepared TFDS data sets: src/convmesh/data/formats/tfds_source.py."""

import io
import pickle
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tfds_sets import LABEL, NAMES, box, config_for, like, png

from convmesh.data import splits
from convmesh.data.formats.tfds_source import TfdsSet, _FeaturePaths
from convmesh.data.record import BadExample
from convmesh.errors import ConfigError, DataError


class Farm(tfds.core.GeneratorBasedBuilder):
    """Like coco and voc at once: ids, names, crowd, difficult, and a mask that is not used."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": LABEL,
                    "is_crowd": np.bool_,
                    "is_difficult": np.bool_,
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            "animals": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "kind": tfds.features.Scalar(np.int64)}
            ),
            "weather": LABEL,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            objects = [
                {
                    "bbox": box(1 + j, 2, 11 + j, 12),
                    "label": (i + j) % 3,
                    "is_crowd": j == 1,
                    "is_difficult": j == 2,
                    "mask": b"not an image",
                }
                for j in range(i)
            ]
            yield (
                i,
                {
                    "image": png(value=i),
                    "image/id": 100 + i,
                    "image/filename": f"{i}.png",
                    "objects": objects,
                    "animals": [{"bbox": box(0, 0, 40, 20), "kind": 1}],
                    "weather": i % 3,
                },
            )


class Digits(tfds.core.GeneratorBasedBuilder):
    """Like cifar10: no ids, and in one example an image that cannot be read."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": LABEL}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            broken = i == 3
            yield i, {"image": b"broken" if broken else png(8, 8, i), "label": i % 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Farm, Digits):
        builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
    # Such files cannot be written without TensorFlow: their description is enough.
    old_dir = folder / "old/digits/1.0.0"
    new_dir = folder / "digits/1.0.0"
    old_dir.mkdir(parents=True)
    for path in new_dir.iterdir():
        text = path.read_bytes()
        if path.suffix == ".json":
            text = text.replace(b"array_record", b"tfrecord")
        (old_dir / path.name.replace("array_record", "tfrecord")).write_bytes(text)
    return folder


def test_boxes_become_pixels_and_keep_their_order(root):
    source = TfdsSet(config_for(root)).source("train", training=True)
    assert source.classes == tuple(NAMES) and len(source) == 4 and source.task == "detect"
    record = source[3]
    assert record.image.shape == (20, 40, 3) and (record.image == 3).all()
    assert np.allclose(record.boxes, [[1 + j, 2, 11 + j, 12] for j in range(3)], atol=1e-4)
    assert record.labels.tolist() == [0, 1, 2] and record.labels.dtype == np.int32
    assert (record.image_id, record.file_name) == (103, "3.png")
    empty = source[0]
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,) and empty.crowd.shape == (0,)


def test_difficult_boxes_are_ignored_in_evaluation_only(root):
    found = TfdsSet(config_for(root))
    assert found.source("train", training=True)[3].crowd.tolist() == [False, True, False]
    assert found.source("train", training=False)[3].crowd.tolist() == [False, True, True]


def test_other_keys_can_be_named(root):
    config = config_for(
        root, boxes_key="animals/bbox", label_key="animals/kind", classes=("x", "y")
    )
    record = TfdsSet(config).source("train", training=True)[1]
    assert record.boxes.tolist() == [[0, 0, 40, 20]] and record.labels.tolist() == [1]
    config = config_for(root, task="classify", label_key="weather")
    assert TfdsSet(config).source("train", training=True)[2].label == 2


def test_the_only_class_label_is_the_label(root):
    assert TfdsSet(config_for(root, task="classify")).source("train", True)[1].label == 1


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"boxes_key": "objects/box"},
            "data.boxes_key: 'objects/box' does not exist.*objects/bbox",
        ),
        ({"boxes_key": "objects/label"}, "data.boxes_key: 'objects/label' has the wrong type"),
        ({"image_key": "weather"}, "data.image_key: 'weather' has the wrong type"),
        ({"label_key": "weather"}, "data.label_key: 'weather' has the wrong type"),
        ({"boxes_key": "animals/bbox"}, "data.label_key: set it to a feature of"),
        (
            {"boxes_key": "animals/bbox", "label_key": "animals/kind"},
            "data.classes: .* does not name the classes of animals/kind",
        ),
        ({"classes": ("a", "b")}, "data.classes: 2 names given, but objects/label .* 3 classes"),
        ({"classes": ("bee", "ant", "cow")}, "data.classes: .* not in its class id order"),
    ],
)
def test_keys_that_do_not_fit_are_named(root, changes, said):
    with pytest.raises(ConfigError, match=said):
        TfdsSet(config_for(root, **changes)).source("train", training=True)


def test_classes_can_be_renamed(root):
    config = config_for(root, classes=("A", "B", "C"))
    assert TfdsSet(config).source("train", training=True).classes == ("A", "B", "C")


def test_missing_ids_are_counted_from_one(root):
    source = TfdsSet(config_for(root, "digits", "classify")).source("test", training=False)
    assert [source[i].image_id for i in range(2)] == [1, 2]
    assert source[1].file_name == "test-00000002" and source[1].label == 1


def test_an_image_that_cannot_be_read_is_named(root):
    source = TfdsSet(config_for(root, "digits", "classify")).source("train", training=True)
    with pytest.raises(BadExample, match="digits/1.0.0 train-00000004: not an image"):
        source[3]


def test_slices_of_a_split(root):
    found = TfdsSet(config_for(root))
    source = found.source("train[50%:]", training=True)
    assert len(source) == 2 and source[0].image_id == 102


def test_an_unknown_split_is_refused_with_the_existing_ones(root):
    for wrong in ("vaildation", "vaildation[:2]"):
        with pytest.raises(ConfigError, match="it has train, validation; did you mean validation"):
            TfdsSet(config_for(root)).source(wrong, training=False)


def test_an_unknown_data_set_is_refused_with_the_nearest_and_those_prepared(root):
    with pytest.raises(
        ConfigError, match="'frm'; did you mean farm.*prepared in .*: digits:1.0.0, farm:1.2.0"
    ):
        TfdsSet(config_for(root, "frm"))
    with pytest.raises(ConfigError, match="'farm:9.9.9' does not exist; did you mean farm:1.2.0"):
        TfdsSet(config_for(root, "farm:9.9.9"))


def test_an_interrupted_preparation_is_not_a_data_set(root, tmp_path):
    shutil.copytree(root / "farm/1.2.0", tmp_path / "farm/incomplete.ABCDEF_1.2.0")
    with pytest.raises(DataError, match="'farm' is not prepared.*\n.*: nothing"):
        TfdsSet(config_for(tmp_path))


def test_an_unprepared_stock_data_set_is_refused_with_the_command(tmp_path):
    said = f"convmesh prepare --name coco/2017 --root {tmp_path}\n.*nothing"
    with pytest.raises(DataError, match=said):
        TfdsSet(config_for(tmp_path, "coco/2017"))


def test_a_data_set_in_tfrecord_format_is_refused_with_the_command(root):
    found = TfdsSet(config_for(root / "old", "digits", "classify"))
    with pytest.raises(DataError, match="as tfrecord, which only TensorFlow .*prepare --name digi"):
        found.source("train", training=True)


# Stock data sets, by the features that their builders state.


def stock_features(name, folder, monkeypatch):
    """The features of a stock data set; its builder needs TensorFlow only for names of types."""
    numbers = types.SimpleNamespace(int64=np.int64)
    monkeypatch.setattr("tensorflow_datasets.object_detection.coco.tf", numbers)
    return tfds.builder(name, data_dir=str(folder)).info.features


@pytest.mark.parametrize(
    "name, found",
    [
        (
            "coco/2017",
            "image objects/bbox objects/label objects/area image/id image/filename"
            " objects/is_crowd",
        ),
        (
            "coco/2017_panoptic",
            "image panoptic_objects/bbox panoptic_objects/label panoptic_objects/area image/id"
            " image/filename panoptic_objects/is_crowd",
        ),
        ("voc/2012", "image objects/bbox objects/label image/filename objects/is_difficult"),
        (
            "open_images_v4/200k",
            "image bobjects/bbox bobjects/label image/filename bobjects/is_group_of",
        ),
        (
            "open_images_challenge2019_detection/200k",
            "image bobjects/bbox bobjects/label bobjects/is_group_of",
        ),
        ("kitti", "image objects/bbox objects/type"),
        ("lvis", "image objects/bbox objects/label objects/area image/id"),
        ("imagenet2012", "image label file_name"),
        ("cifar10", "image label"),
        ("mnist", "image label"),
    ],
)
def test_features_of_stock_data_sets_are_found_without_a_key(tmp_path, monkeypatch, name, found):
    task = "detect" if "bbox" in found else "classify"
    features = stock_features(name, tmp_path, monkeypatch)
    chosen = _FeaturePaths(config_for(tmp_path, name, task), features, name, training=False)
    assert chosen.used() == set(found.split())


def test_coco_as_stored_by_tfds(tmp_path, monkeypatch):
    features = stock_features("coco/2017", tmp_path, monkeypatch)
    features["objects"]["label"].names = [f"c{i}" for i in range(80)]  # known once prepared
    objects = [
        {"id": 7, "area": 33, "bbox": box(1, 2, 11, 12), "label": 4, "is_crowd": False},
        {"id": 8, "area": 1, "bbox": box(5, 5, 5, 5), "label": 5, "is_crowd": False},
        {"id": 9, "area": 120, "bbox": box(0, 0, 40, 20), "label": "c79", "is_crowd": True},
    ]
    example = {"image": png(), "image/filename": "9.jpg", "image/id": 139, "objects": objects}
    bare = {"image": png(), "image/filename": "10.jpg", "image/id": 632, "objects": []}
    like(monkeypatch, tmp_path, features, [example, bare])
    source = TfdsSet(config_for(tmp_path, "like", on_bad_box="drop")).source("train", True)
    record, empty = source[0], source[1]
    assert (record.image_id, record.file_name, len(source.classes)) == (139, "9.jpg", 80)
    assert np.allclose(record.boxes, [[1, 2, 11, 12], [0, 0, 40, 20]], atol=1e-4)
    assert record.labels.tolist() == [4, 79] and record.crowd.tolist() == [False, True]
    # The area of the outline, not of the box, and only of the boxes that are kept.
    assert record.area.tolist() == [33, 120] and record.area.dtype == np.float32
    assert record.bad_boxes == 1 and empty.area.tolist() == [] and len(empty.boxes) == 0


def test_open_images_as_stored_by_tfds(tmp_path, monkeypatch):
    features = stock_features("open_images_v4/200k", tmp_path, monkeypatch)
    marks = ("is_depiction", "is_inside", "is_occluded", "is_truncated")
    objects = [
        {"bbox": box(1, 2, 11, 12), "label": i, "source": 0, "is_group_of": group}
        | dict.fromkeys(marks, -1)
        for i, group in enumerate((-1, 0, 1))  # unknown, no, yes
    ]
    example = {"image": png(), "image/filename": "0.jpg", "bobjects": objects}
    label = {"confidence": 10, "label": 3, "source": 0}
    example |= {"objects": [label], "objects_trainable": []}
    like(monkeypatch, tmp_path, features, [example])
    record = TfdsSet(config_for(tmp_path, "like")).source("train", True)[0]
    assert record.labels.tolist() == [0, 1, 2] and record.area is None
    assert record.crowd.tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["imagenet2012", "cifar10"])
def test_labels_as_stored_by_tfds(tmp_path, monkeypatch, name):
    extra = {"imagenet2012": {"file_name": "n1_2.JPEG"}, "cifar10": {"id": "train_00001"}}[name]
    features = stock_features(name, tmp_path, monkeypatch)
    examples = [{"image": png(32, 32), "label": label} | extra for label in (7, -1)]
    like(monkeypatch, tmp_path, features, examples)
    source = TfdsSet(config_for(tmp_path, "like", "classify")).source("train", True)
    assert source[0].label == 7 and source.classes[7] == features["label"].int2str(7)
    with pytest.raises(BadExample, match="class id -1 is not one of .*a split without labels"):
        source[1]  # ImageNet's test split


def test_relative_boxes_refer_to_the_upright_image(tmp_path, monkeypatch):
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :8] = 255  # the left fifth as stored, the upper fifth once upright
    Image.fromarray(pixels).save(stored, "JPEG", quality=95, exif=exif)
    features = stock_features("voc/2012", tmp_path, monkeypatch)
    thing = {
        "bbox": tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=0.2, xmax=1.0),
        "label": 1,
        "pose": 0,
    }
    thing |= {"is_truncated": False, "is_difficult": False}
    example = {"image": stored.getvalue(), "image/filename": "a.jpg", "objects": [thing]}
    example |= {"labels": [1], "labels_no_difficult": [1]}
    like(monkeypatch, tmp_path, features, [example])
    record = TfdsSet(config_for(tmp_path, "like")).source("train", True)[0]
    assert record.image.shape == (40, 20, 3)
    assert np.allclose(record.boxes, [[0, 0, 20, 8]], atol=1e-5)
    assert record.image[:7].min() > 200 and record.image[9:].max() < 50


@pytest.mark.parametrize("sizes, decoded", [((), (160, 200)), ((1.0, 2.0), (320, 400))])
def test_large_jpegs_are_decoded_smaller_in_training_only(tmp_path, monkeypatch, sizes, decoded):
    done, jpeg = cv2.imencode(".jpg", np.full((640, 800, 3), 90, np.uint8))
    assert done
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": LABEL})
    like(monkeypatch, tmp_path, features, [{"image": jpeg.tobytes(), "label": 0}])
    found = TfdsSet(config_for(tmp_path, "like", "classify", image_size=(64, 64), sizes=sizes))
    # The narrowest crop allows sqrt(0.35 * 640 * 800 / side**2 * 3 / 4): 5.7 for 64, 2.9 for 128.
    assert found.source("train", training=True)[0].image.shape == (*decoded, 3)
    assert found.source("train", training=False)[0].image.shape == (640, 800, 3)
    train = found.source("train", training=True)
    assert train.read(0, lambda height, width: height / 80).image.shape == (80, 100, 3)
    assert train.read(0, None).image.shape == (640, 800, 3)


def test_a_part_of_the_only_split_is_held_out(tmp_path, monkeypatch):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": LABEL})
    examples = [{"image": png(8, 8, i), "label": 0} for i in range(20)]
    like(monkeypatch, tmp_path, features, examples)
    config = config_for(tmp_path, "like", "classify", val_fraction=0.25)

    def shown(source):
        return [int(source[i].image[0, 0, 0]) for i in range(len(source))]

    train, held = splits.open_train(config), splits.open_eval(config)
    assert (len(train), len(held), held.split) == (15, 5, "val")
    assert sorted(shown(train) + shown(held)) == list(range(20))
    # Or as slices in the config.
    config.data.train_split, config.data.eval_split = "train[:90%]", "train[90%:]"
    assert shown(splits.open_train(config)) == list(range(18))
    assert shown(splits.open_eval(config)) == [18, 19]
    config.data.eval_split = ""  # held out of the slice
    train, held = splits.open_train(config), splits.open_eval(config)
    assert sorted(shown(train) + shown(held)) == list(range(18)) and len(held) == 4


def test_an_invalid_slice_of_a_split_is_refused(root):
    for wrong in ("train[:x%]", "train[:110%]", "train[", "train[7:9]"):
        with pytest.raises(ConfigError, match="it has train, validation"):
            TfdsSet(config_for(root)).source(wrong, training=True)
    with pytest.raises(DataError, match="has no examples"):
        TfdsSet(config_for(root)).source("train[90%:10%]", training=True)


def test_a_missing_file_is_named(root, tmp_path):
    shutil.copytree(root / "digits", tmp_path / "digits")
    (gone,) = (tmp_path / "digits").rglob("*train.array_record*")
    gone.unlink()
    found = TfdsSet(config_for(tmp_path, "digits", "classify"))
    with pytest.raises(DataError, match="train.array_record-00000-of-00001: missing"):
        found.source("train", training=True)


def test_a_damaged_file_is_named(root, tmp_path):
    shutil.copytree(root / "digits", tmp_path / "digits")
    (path,) = (tmp_path / "digits").rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    source = TfdsSet(config_for(tmp_path, "digits", "classify")).source("train", training=True)
    with pytest.raises(DataError, match="digits/1.0.0: example 0 of split 'train' cannot be read"):
        source[0]


def test_a_source_can_be_sent_to_another_process(root):
    source = TfdsSet(config_for(root)).source("train", training=True)
    source[1]
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy[3].boxes, source[3].boxes)


def test_digit_scenes_is_prepared_on_first_use(tmp_path):
    config = config_for(tmp_path, "digit_scenes/tiny")
    train, held = splits.open_train(config), splits.open_eval(config)
    assert (len(train), len(held), held.split) == (64, 16, "validation")
    assert train.classes == tuple("0123456789")
    record = train[5]
    assert record.image.shape == (224, 224, 3) and record.image_id == 5 and len(record.boxes)


def test_tensorflow_is_not_needed(root, monkeypatch):
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            assert name.partition(".")[0] != "tensorflow"

    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    assert len(splits.open_train(config_for(root))[3].boxes) == 3
