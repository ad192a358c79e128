"""`predict` on videos: each frame is predicted, drawn and listed with its time."""

import functools
import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from videos import shades, write_video

from convmesh.cli import command_line
from convmesh.errors import DataError
from convmesh.inference.prediction_output import detections_output
from convmesh.inference.video_files import VideoReader
from convmesh.inference.video_prediction import predict_video

pytestmark = pytest.mark.usefixtures("tiny_net")
BOX = [8.0, 10.0, 40.0, 40.0]


class RedFinder:
    """A fake detector: one box, whose score is the red of the image; it counts its calls."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return [self.found(image[0, 0, 0] / 255) for image in images]

    def found(self, red):
        numbers = {
            name: np.array([red]) for name in ("scores", "box_confidence", "class_confidence")
        }
        return numbers | {
            "boxes": np.array([BOX]),
            "labels": np.array([0]),
            "classes": ["bee"],
        }


def predicted(file, output, finder):
    describe = functools.partial(detections_output, frame=True)
    with ThreadPoolExecutor(2) as pool:
        return predict_video(file, output, (finder, describe), pool, 4)


def test_every_frame_is_listed_and_drawn(tmp_path):
    finder = RedFinder()
    file = write_video(tmp_path / "a.avi", shades(10, 120, 160), codec="MJPG")
    entry = predicted(file, tmp_path / "out/a.mp4", finder)
    frames = entry.pop("frames")
    about = {"file": str(file), "video": "a.mp4", "width": 160, "height": 120, "frame_rate": 12.5}
    assert entry == about and finder.batches == [4, 4, 2]
    assert [frame["index"] for frame in frames] == list(range(10))
    np.testing.assert_allclose([f["time"] for f in frames], np.arange(10) / 12.5, atol=1e-3)
    scores = [frame["detections"][0]["score"] for frame in frames]
    np.testing.assert_allclose(scores, np.arange(10) * 12 / 255, atol=0.05)
    assert frames[0]["detections"][0]["box"] == BOX
    before, after = VideoReader(file), VideoReader(tmp_path / "out/a.mp4")
    assert (after.width, after.height, after.rate, after.count) == (160, 120, 12.5, 10)
    for old, new in zip(before.read(10), after.read(10), strict=True):
        changed = np.abs(old.image.astype(int) - new.image).max(-1) > 60
        assert changed[12:38, 6:10].mean() > 0.2  # the left side of the box
        assert not changed[80:, 80:].any()


def test_a_video_that_is_no_video_leaves_nothing(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="a.mp4: no frame"):
        predicted(tmp_path / "a.mp4", tmp_path / "out/a.mp4", RedFinder())
    assert not (tmp_path / "out").exists()


def test_a_failure_halfway_leaves_no_video(tmp_path):
    class Fails(RedFinder):
        def __call__(self, images):
            if self.batches:
                raise MemoryError
            return super().__call__(images)

    file = write_video(tmp_path / "a.mp4", shades(10))
    with pytest.raises(MemoryError):
        predicted(file, tmp_path / "out/a.mp4", Fails())
    assert not list((tmp_path / "out").iterdir())


def test_videos_and_images_in_one_call(photo_run, photos, tmp_path, capsys):
    write_video(tmp_path / "in/clip.mov", shades(3))
    write_video(tmp_path / "in/cut.avi", shades(20), codec="MJPG")
    cut = (tmp_path / "in/cut.avi").read_bytes()
    (tmp_path / "in/cut.avi").write_bytes(cut[: len(cut) * 6 // 10])
    (tmp_path / "in/bad.mp4").write_bytes(b"no video")
    (tmp_path / "in/clip.png").write_bytes((photos / "val/red/0.png").read_bytes())
    call = ["predict", "--workdir", str(photo_run), str(tmp_path / "in"), "--top-k", "2"]
    assert command_line.main([*call, "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "1 images, 2 videos: " in out and err == ""
    assert f"1 of 4 files could not be read and were passed by:\n{tmp_path}/in/bad.mp4: no" in out
    assert "cut.avi: damaged or cut off; only the first" in out
    image, clip, cut = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (image["picture"], clip["video"], cut["video"]) == ("clip.png", "clip.mp4", "cut.mp4")
    assert [len(frame["classes"]) for frame in clip["frames"]] == [2, 2, 2]
    drawn = VideoReader(tmp_path / "out/clip.mp4").read(9)
    assert len(drawn) == 3 and drawn[0].image.shape == (48, 64, 3)
    # The best class is named on the frame.
    assert np.abs(drawn[0].image.astype(int) - shades(1)[0]).max() > 100
    assert 2 < len(cut["frames"]) < 18
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"clip.png", "clip.mp4", "cut.mp4", "predictions.json", "predictions.csv"}


def test_an_error_if_no_video_can_be_read(photo_run, tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    call = ["predict", "--workdir", str(photo_run), str(tmp_path / "a.mp4")]
    assert command_line.main([*call, "--output", str(tmp_path / "out")]) == 1
    assert "none of the 1 files could be read: " in capsys.readouterr().err


def test_a_video_that_would_be_overwritten_is_refused(photo_run, tmp_path, capsys):
    file = write_video(tmp_path / "a.mp4", shades(2))
    content = file.read_bytes()
    call = ["predict", "--workdir", str(photo_run), str(file), "--output", str(tmp_path)]
    assert command_line.main(call) == 2
    assert "a.mp4 would overwrite an input" in capsys.readouterr().err
    assert file.read_bytes() == content and cv2.VideoCapture(str(file)).isOpened()
