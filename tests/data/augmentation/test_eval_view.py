"""What of an image is seen in evaluation, compared with the rules of torchvision."""

import numpy as np
import pytest
from PIL import Image

from convmesh.config import defaults
from convmesh.data.augmentation import augment
from convmesh.data.augmentation.eval_view import EvalView, eval_size
from convmesh.data.augmentation.views import FILL


def gradient(h, w):
    """An image whose red is its column and whose green is its row."""
    rows, columns = np.mgrid[:h, :w]
    return np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)


@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "h, w, resized, corner", [(120, 90, (42, 32), (9, 4)), (50, 133, (32, 85), (4, 30))]
)
def test_the_shorter_side_is_resized_and_the_centre_cropped(h, w, resized, corner, filter_name):
    # int(32 * 120 / 90) = 42 rows, of which (42 - 24) / 2 = 9 are cut off above; int(32 * 133 / 50)
    # = 85 columns, of which (85 - 24) / 2 = 30.5 is rounded to the even 30.
    image = gradient(h, w)
    view = EvalView((24, 24), "classify", 32, filter_name)
    found, scale, offset = view(image)
    resampling = Image.Resampling[filter_name.upper()]
    whole = np.asarray(Image.fromarray(image).resize(resized[::-1], resampling))
    top, left = corner
    np.testing.assert_array_equal(found, whole[top : top + 24, left : left + 24])
    assert (scale, offset.tolist()) == (32 / min(h, w), [-left, -top])


def test_what_a_smaller_image_does_not_cover_is_filled():
    found, _, offset = EvalView((24, 20), "classify", 16)(np.zeros((10, 10, 3), np.uint8))
    covered = np.zeros((24, 20), bool)
    covered[4:20, 2:18] = True
    assert (found[covered] == 0).all() and (found[~covered] == FILL).all()
    assert offset.tolist() == [2, 4]


def test_without_it_classifiers_see_the_largest_crop_and_detectors_everything():
    image = gradient(60, 90)
    config = defaults("classify")
    config.data.image_size = (30, 30)
    np.testing.assert_array_equal(
        EvalView.of(config)(image)[0], augment.centre_crop(image, (30, 30))[0]
    )
    config.data.eval_resize, config.data.eval_interpolation = 32, "bicubic"
    assert EvalView.of(config) == EvalView((30, 30), "classify", 32, "bicubic")
    config = defaults("detect")
    config.data.image_size = (30, 30)
    np.testing.assert_array_equal(
        EvalView.of(config)(image)[0], augment.letterbox(image, (30, 30))[0]
    )


def test_the_size_in_evaluation_may_be_another():
    config = defaults("classify")
    config.data.image_size = (30, 40)
    assert eval_size(config) == (30, 40) == EvalView.of(config).size
    config.data.eval_size = (36, 48)
    assert eval_size(config) == (36, 48) == EvalView.of(config).size
