"""PNG files hold the colours that were given, and nothing else is left in the folder."""

import cv2
import numpy as np
import pytest

from convmesh.plots.png import save_png


def test_a_png_has_the_colours_of_the_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    save_png(image, tmp_path / "new" / "a.png")
    back = cv2.imread(str(tmp_path / "new" / "a.png"))[:, :, ::-1]
    np.testing.assert_array_equal(back, image)
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3)),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
    ],
    ids=["2d", "float", "rgba", "empty"],
)
def test_only_uint8_rgb_is_written(tmp_path, image):
    with pytest.raises(ValueError, match="not an RGB image"):
        save_png(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
