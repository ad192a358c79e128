"""Which image an annotation file is of: src/convmesh/data/formats/paired_files.py."""

import unicodedata

import pytest
from annotation_files import DOG, config_of, images, problems, read, save_image, save_xml

from convmesh.data.formats.paired_files import has_annotations
from convmesh.data.formats.registry import find_format
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def save(root, *pairs):
    """Writes images and XML files: (path of the image, path of the XML file[, its filename])."""
    for image, xml, *filename in pairs:
        if image:
            save_image(root / image)
        if xml:
            save_xml(root / xml, DOG, *filename)


# Layouts.


@pytest.mark.parametrize(
    "image, xml",
    [
        ("JPEGImages/{}.jpg", "Annotations/{}.xml"),
        ("JPEGImages/{}.JPG", "annotations/{}.XML"),
        ("JpegImages/{}.jpg", "ANNOTATIONS/{}.xml"),
        ("Images/{}.jpg", "Annotations/{}.xml"),
        ("images/{}.jpg", "labels/{}.xml"),
        ("images/{}.jpg", "xml/{}.xml"),
        ("images/{}.jpg", "images/{}.xml"),
        ("images/{}.jpg", "{}.xml"),
        ("{}.jpg", "{}.XML"),
        ("batch1/{}.jpg", "batch1/{}.xml"),
        ("VOC2012/JPEGImages/{}.jpg", "VOC2012/Annotations/{}.xml"),
        ("VOCdevkit/VOC2012/JPEGImages/{}.jpg", "VOCdevkit/VOC2012/Annotations/{}.xml"),
        ("archive/{}.jpg", "archive/{}.xml"),
    ],
)
def test_an_image_and_its_xml_wherever_tools_put_them(tmp_path, image, xml):
    save(tmp_path, *((image.format(name), xml.format(name)) for name in "ab"))
    assert find_format(config_of(tmp_path)) == "voc"
    found = read(tmp_path)
    train = found.source("train", training=True)
    assert found.splits == ("train",)
    assert [line for line in problems(found) if "used from there" not in line] == []
    assert [train[i].boxes.tolist() for i in range(2)] == [[[1, 2, 9, 8]]] * 2


@pytest.mark.parametrize(
    "image, xml",
    [
        ("{}/images/0.jpg", "{}/annotations/0.xml"),
        ("{}/JPEGImages/0.jpg", "{}/Annotations/0.xml"),
        ("images/{}/0.jpg", "annotations/{}/0.xml"),
        ("Images/{}/0.jpg", "labels/{}/0.xml"),
        ("images/{}/0.jpg", "images/{}/0.xml"),
        ("{}/0.jpg", "{}/0.xml"),
        ("archive/{}/0.jpg", "archive/{}/0.xml"),
        ("data/{}/images/0.jpg", "data/{}/annotations/0.xml"),
    ],
)
def test_folders_of_splits_in_any_spelling(tmp_path, image, xml):
    for folder in ("Training", "VALID", "test"):
        save(tmp_path, (image.format(folder), xml.format(folder)))
    assert find_format(config_of(tmp_path)) == "voc"
    found = read(tmp_path)
    assert sorted(found.splits) == ["test", "train", "valid"]
    assert [line for line in problems(found) if "used from there" not in line] == []
    (name,) = images(found)["train"]
    assert image.format("Training").endswith(f"Training/{name.partition('Training/')[2]}")
    assert found.source("Training", training=True).split == "train"  # by its own name, too


def test_folders_that_are_not_named_like_splits_are_none(tmp_path):
    save(tmp_path, ("camA/0.jpg", "camA/0.xml"), ("camB/0.jpg", "camB/0.xml"))
    assert images(read(tmp_path)) == {"train": ["camA/0.jpg", "camB/0.jpg"]}
    chosen = read(tmp_path, train_split="camA")
    assert images(chosen) == {"camA": ["camA/0.jpg"], "camB": ["camB/0.jpg"]}


def test_what_is_in_no_folder_of_a_split_is_said(tmp_path):
    save(tmp_path, ("train/0.jpg", "train/0.xml"), ("1.jpg", "1.xml"), ("more/2.jpg", "more/2.xml"))
    found = read(tmp_path)
    assert images(found) == {"more": ["more/2.jpg"], "train": ["train/0.jpg"]}
    assert problems(found) == [
        "1 annotation is in a folder that is no split's, such as more/2.xml; they are the split"
        " 'more'",
        "1 image is in no split, such as 1.jpg; not used",
    ]


def test_several_data_sets_are_refused_and_detected(tmp_path):
    save(tmp_path, *((f"{top}/images/0.jpg", f"{top}/annotations/0.xml") for top in ("a", "b")))
    assert has_annotations(tmp_path, ".xml")
    with pytest.raises(DataError, match="holds several data sets, a, b; set data.root to one"):
        read(tmp_path)


def test_folders_with_other_files_hold_no_annotations(tmp_path):
    for path in ("Annotations/instances_train.json", "labels/0.txt", "images/0.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    assert not has_annotations(tmp_path, ".xml")
    (tmp_path / "Annotations/instances_train.json").unlink()
    assert has_annotations(tmp_path, ".xml")  # an empty folder of VOC's name


# Names.


def test_names_in_decomposed_unicode_are_the_same(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    save(tmp_path, (f"JPEGImages/{decomposed}.jpg", f"Annotations/{composed}.xml"))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text(decomposed, encoding="utf-8")
    found = read(tmp_path)
    assert images(found) == {"train": [f"JPEGImages/{decomposed}.jpg"]} and not problems(found)
    save_image(tmp_path / f"JPEGImages/{composed}.jpg")
    with pytest.raises(DataError, match="have its name; rename or remove all but one"):
        open_train(config_of(tmp_path))


def test_xml_of_another_name_is_of_the_image_that_it_names(tmp_path):
    save(
        tmp_path,
        *((f"JPEGImages/IMG_{i}.jpg", f"Annotations/000{i}.xml", f"IMG_{i}.jpg") for i in range(3)),
        ("JPEGImages/IMG_3.jpg", "Annotations/0003.xml", "C:\\photos\\IMG_3.png"),
    )
    found = read(tmp_path)
    assert images(found) == {"train": [f"JPEGImages/IMG_{i}.jpg" for i in range(4)]}
    assert problems(found) == [
        "Annotations: 4 annotations are of the image of another name stated inside, such as"
        " Annotations/0000.xml for JPEGImages/IMG_0.jpg"
    ]
    assert len(open_train(config_of(tmp_path))[3].boxes) == 1


@pytest.mark.parametrize("listed", ["0001\n0000\n", "IMG_1\nIMG_0.jpg\n"])
def test_lists_name_the_xml_or_the_image(tmp_path, listed):
    for i in range(2):
        save(tmp_path, (f"JPEGImages/IMG_{i}.jpg", f"Annotations/000{i}.xml", f"IMG_{i}.jpg"))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text(listed)
    assert images(read(tmp_path)) == {"train": ["JPEGImages/IMG_1.jpg", "JPEGImages/IMG_0.jpg"]}


def test_an_image_named_by_two_files_or_with_a_file_of_its_own_is_refused(tmp_path):
    save(
        tmp_path,
        ("JPEGImages/a.jpg", "Annotations/0.xml", "a.jpg"),
        ("JPEGImages/b.jpg", "Annotations/1.xml", "a.jpg"),
        ("JPEGImages/c.jpg", "Annotations/c.xml", "c.jpg"),
        ("", "Annotations/2.xml", "c.jpg"),
        ("", "Annotations/3.xml", "no.jpg"),
    )
    both = "Annotations/0.xml and Annotations/1.xml both name the image JPEGImages/a.jpg"
    assert problems(read(tmp_path))[2:] == [
        f"Annotations/0.xml: {both}",
        f"Annotations/1.xml: {both}",
        "Annotations/2.xml: its image is missing; it names JPEGImages/c.jpg, which"
        " Annotations/c.xml annotates",
        "Annotations/3.xml: its image is missing",
    ]


def test_the_stated_image_is_looked_for_in_the_split_of_the_file(tmp_path):
    for split in ("train", "val"):
        save(tmp_path, (f"{split}/images/a.jpg", f"{split}/annotations/0.xml", "a.jpg"))
    found = read(tmp_path)
    assert images(found) == {"train": ["train/images/a.jpg"], "val": ["val/images/a.jpg"]}
    save(tmp_path, ("val/images/b.jpg", "train/annotations/1.xml", "b.jpg"))  # of the other split
    assert problems(read(tmp_path))[-1] == "train/annotations/1.xml: its image is missing"


def test_the_name_of_the_file_wins_over_the_stated_one_and_that_is_said(tmp_path):
    save(
        tmp_path,
        ("a.jpg", "a.xml", "b.jpg"),
        ("b.jpg", "b.xml", "a.jpg"),
        ("c.jpg", "c.xml", "elsewhere.jpg"),  # left over from before it was renamed
        ("d.jpg", "d.xml", "d.png"),
    )
    assert problems(read(tmp_path)) == [
        "2 annotations name another image, which also exists, such as a.xml, which names b.jpg;"
        " those of their own name are used"
    ]


def test_a_unique_name_in_another_folder_is_found_and_said(tmp_path):
    for name in "ab":  # as in the Oxford pets
        save(tmp_path, (f"images/{name}.jpg", f"annotations/xmls/{name}.xml"))
    save(tmp_path, ("images/x/c.jpg", ""), ("images/y/c.jpg", "annotations/c.xml"))
    found = read(tmp_path)
    assert images(found)["train"][1:] == ["images/a.jpg", "images/b.jpg"]
    assert problems(found) == [
        "annotations: 2 annotations are of the image of that name elsewhere, such as"
        " annotations/xmls/a.xml for images/a.jpg",
        "images/x/c.jpg: an image without an annotation; it is in no split",
        "images/y/c.jpg: an image without an annotation; it is in no split",
        "annotations/c.xml: its image is missing",
    ]


# Files without a partner.


def test_many_images_without_an_annotation_are_one_line(tmp_path):
    save(tmp_path, ("a.jpg", "a.xml"), *((f"{i}.jpg", "") for i in range(3)))
    single = "an image without an annotation; it is in no split"
    assert problems(read(tmp_path)) == [f"{i}.jpg: {single}" for i in range(3)]
    save(tmp_path, ("3.jpg", ""))
    assert problems(read(tmp_path)) == [
        "4 images without an annotation, such as 0.jpg; in no split"
    ]


def test_images_that_no_list_names_are_counted(tmp_path):
    save(tmp_path, *((f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml") for name in "abc"))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    assert problems(read(tmp_path)) == [
        "Annotations: 2 images are in no split, such as JPEGImages/b.jpg; not used"
    ]


@pytest.mark.parametrize(
    "name, said",
    [
        ("9.heic", "9.heic is in a format that is not read; convert it to JPEG or PNG"),
        ("9.CR2", "9.CR2 is in a format that is not read; convert it to JPEG or PNG"),
        ("9", "9 has no suffix; rename it, such as to images/9.jpg"),
    ],
)
def test_an_image_that_is_not_read_is_named(tmp_path, name, said):
    save(tmp_path, ("images/a.jpg", "xml/a.xml"), ("", "xml/9.xml"))
    (tmp_path / "images" / name).write_bytes(b"x")
    assert problems(read(tmp_path)) == [f"xml/9.xml: its image images/{said}"]


@pytest.mark.parametrize(
    "image, xml",
    [
        ("JPEGImages/a.jpg", "Annotations/a.xml"),
        ("train/images/a.jpg", "train/annotations/a.xml"),
    ],
)
def test_annotations_in_other_folders_are_counted(tmp_path, image, xml):
    save(tmp_path, (image, xml), ("8.jpg", "8.xml"), ("new/7.jpg", "new/7.xml"))
    (tmp_path / "new/other.xml").write_text("<annotation/>")  # of no image
    [said] = [text for text in problems(read(tmp_path)) if "outside" in text]
    assert said.endswith(
        "2 annotations are outside of the folders that are read, such as 8.xml; not used"
    )


@pytest.mark.parametrize("folder, text", [("labels", "1 .5 .5 .2 .2\n"), ("images", "0 1 0 1 1")])
def test_yolo_labels_of_the_same_images_are_counted(tmp_path, folder, text):
    save(tmp_path, *((f"images/{name}.jpg", f"xml/{name}.xml") for name in "ab"))
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("a", "b", "classes"):
        (tmp_path / folder / f"{name}.txt").write_text(text)
    assert problems(read(tmp_path)) == [
        f"xml: 2 images have YOLO labels too, such as {folder}/a.txt; not used unless data.format"
        " is yolo"
    ]


def test_other_texts_named_like_images_are_no_labels(tmp_path):
    save(tmp_path, ("images/a.jpg", "xml/a.xml"))
    (tmp_path / "images/a.txt").write_text("a dog on 4 legs\n")
    assert problems(read(tmp_path)) == []


def test_a_copy_of_the_data_set_is_said_once(tmp_path):
    for top in ("", "copy/"):
        save(tmp_path, (f"{top}JPEGImages/a.jpg", f"{top}Annotations/a.xml"))
    [said] = problems(read(tmp_path))
    assert "looks like a copy" in said
