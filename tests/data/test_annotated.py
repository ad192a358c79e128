"""What the layouts with boxes have in common."""

import numpy as np

from convmesh.config import defaults
from convmesh.data.annotated import Annotated, AnnotatedSet, Numbered, files_below


def one(tmp_path, boxes, labels=None, **fields):
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels)
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Annotated(tmp_path / "a.jpg", "a.jpg", 1, "file", boxes, labels, **fields)


def test_one_pass_over_all_boxes_finds_the_images_that_words_are_needed_for(tmp_path):
    nan, sized = float("nan"), {"size": (20, 30)}
    sound = [
        one(tmp_path, [], **sized),
        one(tmp_path, [[0, 0, 30.01, 20]], **sized),
        one(tmp_path, [[0, 0, 1, 1]], relative=True),
        one(tmp_path, [[500, 500, 900, 900]]),  # of no stated size
    ]
    faulty = [
        one(tmp_path, [], broken="is missing"),
        one(tmp_path, [[1, 2, 3, 4], [0, 0, 30.1, 20]], **sized),
        one(tmp_path, [[0, 0, 20, 30]], **sized),
        one(tmp_path, [[1, 2, 3, 4]], [1], **sized),
        one(tmp_path, [[1, 2, 3, 4]], [-1], unknown=("cow",)),
        one(tmp_path, [[0, 0, 1.001, 1]], relative=True),
        one(tmp_path, [[-1, 500, 900, 900]]),
        one(tmp_path, [[nan] * 4]),
        one(tmp_path, [[3, 3, 3, 4]]),
    ]
    mixed = [example for pair in zip(faulty, sound * 3, strict=False) for example in pair]
    source = AnnotatedSet(defaults("detect"), {"train": mixed}, ["dog"]).unchecked("train")
    told = [i for i in range(len(source)) if source.stated_problems(i)]
    assert source.suspects() == told == list(range(0, 2 * len(faulty), 2))
    assert AnnotatedSet(defaults("detect"), {"train": faulty[:1] + sound[:1]}, ["dog"]).unchecked(
        "train"
    ).suspects() == [0]


def test_names_are_made_when_asked_for():
    names = Numbered("line", np.array([3, 5, 8]))
    assert list(names) == ["line 3", "line 5", "line 8"]
    assert list(names[1:]) == ["line 5", "line 8"] and len(names) == 3


def test_files_below_follow_links_but_not_in_circles(tmp_path):
    for name in ("there/b.jpg", "root/a/c.jpg", "root/.hidden/d.jpg", "root/.e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert files_below(tmp_path / "root") == ["a/c.jpg", "link/b.jpg"]
