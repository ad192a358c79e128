"""Video files: frames and times as they were written, and what is wrong with damaged files."""

import resource
import signal

import cv2
import numpy as np
import pytest
from videos import shades, write_video

from convmesh.errors import DataError, RunError
from convmesh.inference.video_files import SUFFIXES, VideoReader, VideoWriter

FORMATS = {".avi": "MJPG", ".webm": "VP80"}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_frames_and_times_of_every_format(tmp_path, suffix):
    frames = shades(5)
    file = write_video(tmp_path / f"a{suffix}", frames, 12.5, FORMATS.get(suffix, "mp4v"))
    reader = VideoReader(file)
    assert (reader.width, reader.height, reader.rate, reader.count) == (64, 48, 12.5, 5)
    first, second, rest = reader.read(2), reader.read(2), reader.read(2)
    assert (len(first), len(second), len(rest), reader.read(2)) == (2, 2, 1, [])
    found = [*first, *second, *rest]
    np.testing.assert_allclose([frame.time for frame in found], np.arange(5) * 0.08, atol=1e-3)
    for frame, written in zip(found, frames, strict=True):
        assert np.abs(frame.image.astype(int) - written).max() < 24
    assert reader.missing() == ""
    reader.close()


@pytest.mark.parametrize(
    "content, said", [(b"", "no frame can be decoded"), (b"no video" * 99, "it is not a video")]
)
def test_a_file_that_is_no_video(tmp_path, capfd, content, said):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.mp4: .*{said}"):
        VideoReader(tmp_path / "a.mp4")
    assert capfd.readouterr().err == ""


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="a.mp4: No such file"):
        VideoReader(tmp_path / "a.mp4")


def test_a_video_that_is_cut_off_says_how_much_was_read(tmp_path, capfd):
    file = write_video(tmp_path / "a.avi", shades(20), codec="MJPG")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    reader = VideoReader(file)
    read = len(reader.read(100))
    assert 2 < read < 18
    assert f"a.avi: damaged or cut off; only the first {read} of 20 frames" in reader.missing()
    assert capfd.readouterr().err == ""
    # Without its index at the end nothing of an mp4 can be found.
    file = write_video(tmp_path / "a.mp4", shades(20))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        VideoReader(file)


def test_a_frame_of_another_size_is_refused(tmp_path, monkeypatch):
    reader = VideoReader(write_video(tmp_path / "a.mp4", shades(2)))
    real = reader._decode
    monkeypatch.setattr(reader, "_decode", lambda: real()._replace(image=shades(1, 20)[0]))
    with pytest.raises(DataError, match="frame 1 has another size than the first"):
        reader.read(2)


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_written_video_holds_every_pixel(tmp_path, size):
    frames = shades(3, *size)
    with VideoWriter(tmp_path / "new" / "a.mp4", 30, size) as writer:
        for frame in frames:
            writer.write(frame)
    reader = VideoReader(tmp_path / "new" / "a.mp4")
    assert (reader.height, reader.width, reader.rate) == (48, 64, 30)
    for read, written in zip(reader.read(5), frames, strict=True):
        assert np.abs(read.image[: size[0], : size[1]].astype(int) - written).max() < 24
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_nothing_is_left_of_a_video_that_fails(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 30, (48, 64)) as writer:
        writer.write(shades(1)[0])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    with VideoWriter(tmp_path / "a.mp4", 30, (48, 64)) as writer:
        for frame in shades(2):
            writer.write(frame)
    whole = (tmp_path / "a.mp4").read_bytes()
    writer = VideoWriter(tmp_path / "a.mp4", 30, (48, 64))
    writer.write(shades(1)[0])
    release = writer._writer.release
    monkeypatch.setattr(writer, "_writer", FullDisk(release, writer._temporary))
    with pytest.raises(RunError, match="a.mp4: only 0 of 1 frames could be written; is the disk"):
        writer.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == whole


def test_frames_that_cannot_be_written_are_not_printed_one_by_one(tmp_path, capfd):
    level = cv2.utils.logging.getLogLevel()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    rng = np.random.default_rng(0)
    try:
        with (
            pytest.raises(RunError, match="frames could be written; is the disk full"),
            VideoWriter(tmp_path / "a.mp4", 30, (240, 320)) as writer,
        ):
            for _ in range(20):
                writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())
    assert cv2.utils.logging.getLogLevel() == level


class FullDisk:
    """A writer of OpenCV whose last bytes do not reach the file."""

    def __init__(self, release, path):
        self._release, self._path = release, path

    def release(self):
        self._release()
        content = self._path.read_bytes()
        self._path.write_bytes(content[: len(content) // 2])


def test_a_codec_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    with pytest.raises(RunError, match="a.mp4: OpenCV cannot write it; .* codec mp4v"):
        VideoWriter(tmp_path / "a.mp4", 30, (48, 64))
    assert not list(tmp_path.iterdir())
