"""Each fault of a data set made by itself, and what is said of it; what training does with it."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from convmesh import data
from convmesh.config import defaults
from convmesh.data import inspection, open_eval, open_train
from convmesh.data.annotated import Annotated, AnnotatedSet
from convmesh.data.inspection import drawn_twice, inspect, likelier_class
from convmesh.data.record import BadExample, Record, check_boxes
from convmesh.errors import ConfigError, DataError

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
DOG, CAT = ("dog", 1, 2, 20, 18), ("cat", 3, 4, 9, 9)


def noise(seed, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write(root, name, objects=(), image=None, stated=None):
    """Writes an image (noise by default) and its annotation; objects: (class, x0, y0, x1, y1)."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = noise(sum(map(ord, name))) if image is None else image
    cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), image)
    height, width = stated or image.shape[:2]
    text = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
    text += "".join(OBJECT.format(kind, 0, *box) for kind, *box in objects) + "</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


def lists(root, **splits):
    for split, names in splits.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))


@pytest.fixture
def root(tmp_path):
    """A clean VOC set: a, b, c are trained on, d and e (without boxes) evaluated."""
    root = tmp_path / "set"
    write(root, "a", [DOG, CAT])
    write(root, "b", [DOG])
    write(root, "c", [CAT])
    write(root, "d", [CAT, DOG])
    write(root, "e")
    lists(root, train="abc", test="de")
    return root


def config_for(root, task="detect", **changes):
    config = defaults(task)
    config.data.root = str(root)
    config.data.update(changes)
    return config


def refused_by_training(config):
    """Whether reading all that a run uses raises."""
    try:
        for source in (open_train(config), open_eval(config)):
            for i in range(len(source)):
                try:
                    source[i]
                except BadExample:
                    if config.data.on_bad_example == "fail":
                        raise
    except DataError:
        return True
    return False


def test_a_clean_set_has_neither_errors_nor_warnings(root):
    found = inspect(config_for(root))
    assert found.findings == [] and not found.refused
    assert found.verdict() == "0 errors, 0 warnings: training takes this data"
    splits = found.summary["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 3, "test": 2}
    assert splits["train"]["boxes_by_class"] == {"cat": 2, "dog": 2}
    assert "voc data in" in found.lines()[0] and "2 classes" in found.lines()[0]


# --- each fault by itself -------------------------------------------------------------------------


def zero_area(root):
    write(root, "b", [DOG, ("dog", 5, 5, 5, 9)])


def outside(root):
    write(root, "d", [DOG, CAT, ("dog", 5, 5, 31, 9)])


def image_missing(root):
    (root / "JPEGImages/b.png").unlink()


def image_cut_short(root):
    file = root / "JPEGImages/b.png"
    file.write_bytes(file.read_bytes()[:200])


def image_is_text(root):
    (root / "JPEGImages/b.png").write_text("no image")


def size_of_another(root):
    write(root, "b", [DOG], stated=(40, 60))


def field_missing(root):
    file = root / "Annotations/b.xml"
    file.write_text(file.read_text().replace("<name>dog</name>", ""))


def drawn_again(root):
    write(root, "b", [DOG, CAT, DOG])


def drawn_nearly_again(root):
    write(root, "b", [DOG, ("dog", 1, 2, 20, 19)])  # 16 of 17 rows: 0.94


def of_two_classes(root):
    write(root, "b", [DOG, ("cat", *DOG[1:])])


def parts_for_pixels(root):
    write(root, "b", [("dog", 0.1, 0.2, 0.5, 1.0)])


def listed_twice(root):
    lists(root, train="abcb")


def in_both_splits(root):
    lists(root, test="deb")


def same_pixels_in_both(root):
    write(root, "d", [CAT, DOG], noise(ord("b")))
    file = root / "JPEGImages/d.png"  # another file, the same picture
    image = Image.open(file)
    image.save(file, compress_level=1)


def no_image(root):
    file = root / "Annotations/b.xml"
    file.with_name("z.xml").write_text(file.read_text())


def no_annotation(root):
    cv2.imwrite(str(root / "JPEGImages/z.png"), noise(1))


def of_one_name(root):
    cv2.imwrite(str(root / "JPEGImages/b.jpg"), noise(2))


def turned(root, orientation, stated):
    write(root, "b", [DOG], stated=stated)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(ord("b"))).save(root / "JPEGImages/b.png", exif=exif)


def turned_as_stored(root):
    turned(root, 6, (20, 30))


def upside_down(root):
    turned(root, 3, (20, 30))


def only_evaluated(root):
    write(root, "d", [CAT, DOG, ("emu", 5, 5, 9, 9)])


FAULTS = [
    (zero_area, "Annotations/b.xml: (5, 5, 5, 9) has no area in the image of 30 x 20: object 2"),
    (outside, "Annotations/d.xml: (5, 5, 31, 9) is outside of the image of 30 x 20: object 3"),
    (image_missing, "Annotations/b.xml: its image is missing"),
    (image_cut_short, "JPEGImages/b.png: cut short or damaged: "),
    (image_is_text, "JPEGImages/b.png: not an image, or of a kind that cannot be read"),
    (
        size_of_another,
        "JPEGImages/b.png: is 30 x 20, but Annotations/b.xml says 60 x 40: its boxes",
    ),
    (field_missing, "Annotations/b.xml: object 1 has no <name>"),
    (drawn_again, "Annotations/b.xml: warning: drawn twice: the same box as object 1: object 3"),
    (
        drawn_nearly_again,
        "Annotations/b.xml: warning: drawn twice? object 1 is of the same class and overlaps it"
        " (IoU 0.94): object 2",
    ),
    (
        of_two_classes,
        "Annotations/b.xml: warning: the same box as object 1, which is a dog: object 2",
    ),
    (parts_for_pixels, "JPEGImages/b.png: warning: no coordinate is above 1: parts of width and"),
    (listed_twice, "ImageSets/Main/train.txt: warning: names b 2 times"),
    (in_both_splits, "JPEGImages/b.png: warning: is in train and in test"),
    (
        same_pixels_in_both,
        "JPEGImages/d.png: warning: the same picture as JPEGImages/b.png, which is in train (this"
        " one in test)",
    ),
    (no_image, "Annotations/z.xml: warning: an annotation without an image"),
    (no_annotation, "JPEGImages/z.png: warning: an image without an annotation"),
    (
        of_one_name,
        "Annotations/b.xml: JPEGImages/b.jpg and JPEGImages/b.png have its name; rename or remove",
    ),
    (
        turned_as_stored,
        "JPEGImages/b.png: warning: EXIF turns the image (orientation 6); its boxes are stated on"
        " the stored pixels",
    ),
    (
        upside_down,
        "JPEGImages/b.png: warning: EXIF turns the image (orientation 3); its boxes are taken as"
        " those of the upright image",
    ),
    (only_evaluated, "class emu: warning: occurs 1 time in test, never in train"),
]


@pytest.mark.parametrize("spoil, said", FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_one_fault_is_one_line_and_an_error_where_training_refuses(root, spoil, said):
    spoil(root)
    config = config_for(root)
    found = inspect(config)
    assert len(found.findings) == 1
    assert found.lines()[0].startswith(said)
    assert found.refused == refused_by_training(config) == ("warning" not in said)
    assert found.verdict().startswith("1 error, 0" if found.refused else "0 errors, 1 warning (1 ")


def test_an_image_turned_whose_stated_size_is_upright_is_no_fault(root):
    turned(root, 6, (30, 20))
    assert inspect(config_for(root)).findings == []


def test_nothing_says_which_way_the_boxes_of_a_turned_square_lie(root):
    write(root, "b", [("dog", 1, 2, 20, 18)], noise(ord("b"), (20, 20)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(ord("b"), (20, 20))).save(root / "JPEGImages/b.png", exif=exif)
    [finding] = inspect(config_for(root)).findings
    assert "taken as those of the upright image" in str(finding)


def test_a_split_without_images_is_refused(root, monkeypatch):
    empty = lambda config: AnnotatedSet(config, {"train": [], "val": []}, ["dog"])  # noqa: E731
    monkeypatch.setitem(data.FORMATS, "voc", empty)
    found = inspect(config_for(root))
    assert [str(f) for f in found.findings] == [
        "class dog: warning: occurs nowhere",
        "split train: has no images",
        "split val: has no images",
    ]
    assert refused_by_training(config_for(root)) and found.refused
    assert found.lines() and list(found.sample(4)) == []


def test_a_class_that_is_not_known_and_one_that_never_occurs(root):
    found = inspect(config_for(root, classes=("dog", "emu")))
    assert [str(finding) for finding in found.findings] == [
        "Annotations/a.xml: class 'cat' is not one of the classes: object 2",
        "Annotations/c.xml: class 'cat' is not one of the classes: object 1",
        "Annotations/d.xml: class 'cat' is not one of the classes: object 1",
        "class emu: warning: occurs nowhere",
    ]
    assert found.summary["splits"]["train"]["boxes_by_class"] == {"dog": 2, "emu": 0}
    # Of many one line.
    many = tuple(f"emu{i}" for i in range(11))
    found = inspect(config_for(root, classes=("cat", "dog", *many)))
    assert [str(finding) for finding in found.findings] == [
        f"classes: warning: 11 of 13 occur nowhere: {', '.join(many)}"
    ]


def test_more_boxes_than_a_batch_holds(root):
    [finding] = inspect(config_for(root, max_boxes=1)).findings
    assert str(finding) == (
        "data.max_boxes: warning: 1 of 3 images of train hold more than 1 box (most: 2); training"
        " leaves out the smallest of these"
    )


def test_all_images_are_looked_at_though_a_run_takes_the_first(root):
    image_cut_short(root)
    found = inspect(config_for(root, first=1))
    assert [str(finding) for finding in found.findings if finding.kind != "example"] == [
        "data.first: warning: a run trains on 1 of the 3 images of train; here all are looked at"
        " and counted"
    ]
    assert found.refused and found.summary["splits"]["train"]["images"] == 3
    assert len(inspect(config_for(root, first=3)).findings) == 1  # these are all there are


def test_what_is_throughout_is_said_once(root):
    names = [f"x{i}" for i in range(inspection.MOST_ALIKE + 1)]
    for name in names:
        write(
            root, name, [("dog", 0.1, 0.2, 0.5, 1.0), ("cat", 0.3, 0.2, 0.5, 1.0)], noise(len(name))
        )
    for i, name in enumerate(names):
        cv2.imwrite(str(root / f"JPEGImages/{name}.png"), noise(1000 + i))
    lists(root, train=names)
    [finding] = inspect(config_for(root)).findings
    assert str(finding).startswith(
        "split train: warning: 11 images, JPEGImages/x0.png first: no co"
    )


@pytest.mark.parametrize("key, value", [("on_bad_box", "drop"), ("on_bad_box", "clip")])
def test_the_policy_for_boxes_makes_errors_warnings(root, key, value):
    zero_area(root)
    failing = inspect(config_for(root))
    assert failing.verdict() == (
        "1 error, 0 warnings: training would be refused; mend them, or set data.on_bad_box to drop"
        " or clip"
    )
    config = config_for(root, **{key: value})
    found = inspect(config)
    assert not found.refused and not refused_by_training(config)
    assert str(found.findings[0]).startswith("Annotations/b.xml: warning: (5, 5, 5, 9) has no area")


def test_the_policy_for_images_makes_errors_warnings_but_not_of_their_boxes(root):
    zero_area(root)
    image_cut_short(root)
    both = inspect(config_for(root))
    assert both.verdict().endswith(
        "set data.on_bad_box to drop or clip and data.on_bad_example to skip"
    )
    config = config_for(root, on_bad_example="skip")
    found = inspect(config)  # the box is refused before the image is opened
    assert [f.problem.error for f in found.findings] == [True, False]
    assert found.refused and refused_by_training(config)
    config = config_for(root, on_bad_example="skip", on_bad_box="drop")
    assert not inspect(config).refused and not refused_by_training(config)


def test_what_only_mending_helps_is_told_apart(root):
    zero_area(root)
    found = inspect(config_for(root))
    file = inspection.Finding(inspection.Problem("x", "broken"), "file")
    verdict = inspection.Inspection([*found.findings, file], {}).verdict()
    assert verdict.endswith("or set data.on_bad_box to drop or clip (1 can only be mended)")
    assert inspection.Inspection([file], {}).verdict().endswith("would be refused; mend them")


def test_a_set_without_annotations_is_one_error_and_a_wrong_split_is_the_configs(root):
    config = config_for(root, eval_split="tset")
    with pytest.raises(ConfigError, match="no split 'tset'.* did you mean test"):
        inspect(config)
    for file in (root / "Annotations").iterdir():
        file.unlink()
    for file in (root / "JPEGImages").iterdir():
        file.unlink()
    for file in (root / "ImageSets/Main").iterdir():
        file.unlink()
    found = inspect(config_for(root))
    assert found.refused and "no XML annotations" in found.lines()[0]
    assert list(found.sample(4)) == [] and json.dumps(found.to_json())


def test_a_split_that_is_both_trained_on_and_evaluated(root):
    found = inspect(config_for(root, eval_split="train"))
    assert [f.kind for f in found.findings] == ["set"]
    assert list(found.summary["splits"]) == ["train"]


def test_the_part_held_out_is_the_one_that_training_leaves_out(root):
    (root / "ImageSets/Main/test.txt").unlink()
    lists(root, train="abcde")
    config = config_for(root, val_fraction=0.4)
    parts = inspect(config).parts
    assert [part.split for part in parts] == ["train", "val"]
    for part, source in zip(parts, (open_train(config), open_eval(config)), strict=True):
        names = [source.name(i) for i in range(len(source))]
        assert [part.name(i) for i in range(len(part))] == names
    with pytest.raises(ConfigError, match="data.val_fraction: 0"):
        inspect(config_for(root, val_fraction=0.0))


# --- labels in doubt, boxes drawn twice -----------------------------------------------------------


def test_a_label_is_in_doubt_if_another_class_fits_and_its_own_does_not():
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.normal(100, 10, 50), rng.normal(10, 1, 50), [10, 101, 400, 30]])
    labels = np.array([0] * 50 + [1] * 50 + [0, 1, 1, 0])
    other, typical = likelier_class(sides, labels, 3)
    # A small 0 and a large 1; 400 and 30 fit nobody.
    assert np.flatnonzero(other >= 0).tolist() == [100, 101]
    assert other[100:].tolist() == [1, 0, -1, -1]
    assert typical[:2] == pytest.approx([100, 10], rel=0.05) and np.isnan(typical[2])


def test_long_tails_and_small_classes_put_no_label_in_doubt():
    few = inspection.LEAST_BOXES
    sides = np.concatenate([np.full(few - 1, 100.0), [10.0], np.full(few, 10.0)])
    labels = np.array([0] * few + [1] * few)
    assert np.flatnonzero(likelier_class(sides, labels, 2)[0] >= 0).tolist() == [few - 1]
    # Of one box fewer, a class says nothing: neither of its own nor of another's boxes.
    assert (likelier_class(sides[1:], labels[1:], 2)[0] == -1).all()
    assert (likelier_class(sides[:-1], labels[:-1], 2)[0] == -1).all()
    # A tenth of class 0 is as small: that is how it is.
    sides[: few // 10 + 1] = 10.0
    assert (likelier_class(sides, labels, 2)[0] == -1).all()


def test_a_doubtful_label_is_named_in_pixels_of_its_image(root):
    """Half of class cat in images of half the size: judged at the input, told in the image."""
    lists(root, train=[f"x{i}" for i in range(21)], test=["y"])
    for i in range(1, 21):
        times = 1 + i % 2
        objects = [
            (name, *(times * v for v in box))
            for name, box in (("dog", (2, 2, 18, 18)), ("cat", (20, 2, 22, 4)))
        ]
        write(root, f"x{i}", objects, noise(i, (20 * times, 30 * times)))
    write(root, "x0", [("dog", 5, 5, 5, 5)], noise(60))  # does not count
    write(root, "y", [("cat", 4, 4, 36, 36)], noise(50, (40, 60)))
    [_, finding] = inspect(config_for(root)).findings
    assert str(finding) == (
        "Annotations/y.xml: warning: is this a dog? 32 pixels a side, where cat have about 4 and"
        " dog 32: object 1"
    )
    assert (finding.kind, finding.at, finding.boxes) == ("label", (1, 0), (0,))


@pytest.mark.parametrize("at_once", [2**18, 1, 9])
def test_boxes_drawn_twice(monkeypatch, at_once):
    monkeypatch.setattr(inspection, "_PAIRS_AT_ONCE", at_once)
    boxes = np.array(
        [
            [0, 0, 10, 10],
            [0, 0, 10, 8],  # 0.80 of the first: not above
            [0, 0, 10, 9],  # 0.90 of the first, 0.89 of the second
            [0, 0, 10, 10],  # the first, of another class
            [50, 0, 60, 10],
            [0, 0, 10, 9.5],  # another class than the first, that of the fourth
        ],
        float,
    )
    found = drawn_twice(boxes, np.array([0, 0, 0, 1, 0, 1]))
    assert [(i, j) for i, j, _ in found] == [(2, 0), (3, 0), (5, 3)]
    assert [iou for *_, iou in found] == pytest.approx([0.9, 1, 0.95])
    assert drawn_twice(boxes[:0], np.zeros(0, int)) == []


# --- other layouts --------------------------------------------------------------------------------


def relative_set(config):
    """What a reader of relative boxes makes, with pixels in one file."""
    path = config.data.root
    ones = {
        "fine": Annotated(
            f"{path}/JPEGImages/a.png",
            "a.png",
            1,
            boxes=np.array([[0.1, 0.1, 0.5, 0.5]]),
            labels=np.zeros(1, np.int64),
            relative=True,
        ),
        "pixels": Annotated(
            f"{path}/JPEGImages/b.png",
            "b.png",
            2,
            boxes=np.array([[3, 4, 20, 10.0]]),
            labels=np.zeros(1, np.int64),
            crowd=np.array([False]),
            relative=True,
        ),
    }
    return AnnotatedSet(config, {"train": [*ones.values()], "val": [ones["fine"]]}, ["dog"])


def test_pixels_where_parts_are_due(root, monkeypatch):
    monkeypatch.setitem(data.FORMATS, "voc", relative_set)
    lines = [str(finding) for finding in inspect(config_for(root)).findings]
    assert lines == [
        "a.png: warning: is in train and in val",
        "b.png: (3, 4, 20, 10) is outside of the image; in pixels? the numbers are to be parts of"
        " the image's sides: box 0",
        "b.png: warning: a coordinate is 20: pixels, where parts of width and height are due?",
    ]


def test_folders_of_classes(tmp_path):
    for i, name in enumerate(
        ["train/cat/0", "train/cat/1", "train/dog/2", "val/cat/3", "val/dog/4"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise(i))
    config = config_for(tmp_path, "classify")
    clean = inspect(config)
    assert clean.findings == []
    assert clean.summary["splits"]["train"]["images_by_class"] == {"cat": 2, "dog": 1}

    cv2.imwrite(str(tmp_path / "train/dog/again.png"), noise(0))
    (tmp_path / "val/dog/4.png").write_bytes(b"")
    (tmp_path / "train/emu").mkdir()
    (tmp_path / "train/cat/notes.txt").write_text("none")
    found = inspect(config)
    assert [str(finding) for finding in found.findings] == [
        "class emu: its folder in train has no images",
        "split train: warning: 1 file not taken for images: train/cat/notes.txt",
        "train/dog/again.png: warning: the same picture as train/cat/0.png, there as cat",
        "val/dog/4.png: the file is empty",
    ]
    assert refused_by_training(config)
    pictures = [example for _, example in found.sample(4)]
    assert pictures[0] == {"name": "train: train/dog/again.png", "label": 1}
    (tmp_path / "val/gnu").mkdir()
    assert inspect(config).verdict().startswith("1 error, 0 warnings")  # the set does not open


class Scenes:
    """A data set that is neither of files nor of annotations."""

    splits = ("train", "val")
    classes, task, split = ("dog",), "detect", "train"

    def __init__(self, config):
        self.policy = config.data.on_bad_box

    def source(self, split, training):
        assert training  # difficult boxes are those of training
        return self

    def __len__(self):
        return 3

    def name(self, index):
        return f"scenes {index}"

    def __getitem__(self, index):
        if index == 1:
            raise BadExample("scenes 1: damaged")
        boxes = np.array([[2, 2, 9, 9], [5, 5, 5, 5 + index * 2]], np.float32)[: 1 + index]
        labels, crowd = np.zeros(len(boxes), int), np.zeros(len(boxes), bool)
        name = self.name(index)
        boxes, labels, crowd, bad = check_boxes(
            boxes, labels, crowd, (20, 30), 1, self.policy, name
        )
        image = noise(index)
        return Record(image, 1, name, boxes=boxes, labels=labels, crowd=crowd, bad_boxes=bad)


def test_any_other_source_is_read_example_by_example(monkeypatch):
    monkeypatch.setitem(data.FORMATS, "tfds", Scenes)
    config = defaults("detect")
    config.data.name, config.data.eval_split = "scenes", "train"
    found = inspect(config)
    lines = [str(finding) for finding in found.findings[1:]]
    assert lines[0] == "scenes 1: damaged"
    assert lines[1].startswith("scenes 2: box 1: (5, 5, 5, 9) has no area") and len(lines) == 2
    assert [f.problem.error for f in found.findings[1:]] == [True, True]
    config.data.on_bad_box, config.data.on_bad_example = "drop", "skip"
    found = inspect(config)
    assert [str(finding) for finding in found.findings[1:]] == [
        "scenes 1: warning: damaged",
        "scenes 2: warning: 1 of its boxes are bad (dropped, or clipped)",
    ]
    assert found.summary["splits"]["train"]["boxes"] == 2


# --- what is shown --------------------------------------------------------------------------------


def test_the_sample_shows_findings_of_each_kind_then_all_splits(root):
    drawn_again(root)
    write(root, "d", [CAT, DOG, ("dog", 5, 5, 5, 9)])
    found = inspect(config_for(root))
    images, examples = zip(*found.sample(4), strict=True)
    assert [example["name"] for example in examples] == [
        "train: JPEGImages/b.png",
        "test: JPEGImages/d.png",
        "train: JPEGImages/a.png",
        "test: JPEGImages/e.png",
    ]
    assert [example["doubted"].tolist() for example in examples] == [
        [False, False, True],
        [False, False, True],
        [False, False],
        [],
    ]
    assert all(image.shape == (20, 30, 3) for image in images)
    names = [example["name"] for _, example in found.sample(2)]  # half is for the others
    assert names == ["train: JPEGImages/b.png", "train: JPEGImages/a.png"]
    assert len(list(found.sample(100))) == 5


def test_progress_is_told_and_the_order_of_reading_kept(root, monkeypatch):
    monkeypatch.setattr("convmesh.data.seen._AT_ONCE", 2)
    told = []
    found = inspect(config_for(root), lambda *numbers: told.append(numbers))
    assert told == [(i + 1, 5) for i in range(5)]
    assert [len(seen.boxes) for part in found.parts for seen in part.seen] == [2, 1, 1, 2, 0]


def test_json_holds_every_line(root):
    zero_area(root)
    in_both_splits(root)
    told = json.loads(json.dumps(inspect(config_for(root)).to_json()))
    assert (told["refused"], told["errors"], told["warnings"]) == (True, 2, 1)
    assert told["problems"][0] == {
        "file": "Annotations/b.xml",
        "what": "(5, 5, 5, 9) has no area in the image of 30 x 20",
        "where": "object 2",
        "error": True,
        "kind": "box",
    }
    assert told["summary"]["splits"]["train"]["bad_boxes"] == 1
    assert told["summary"]["format"] == "voc"
