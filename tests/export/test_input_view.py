"""The input view of an exported program, compared with what evaluation shows the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.placement import Placement
from convmesh.export.input_view import Scale, boxes_to_original, view_in_graph
from convmesh.tasks.detect import Detect

VIEWS = {
    "letterbox": EvalView((48, 64), "detect"),
    "crop": EvalView((48, 64), "classify"),
    "bilinear": EvalView((48, 40), "classify", 56),
    "bicubic": EvalView((48, 40), "classify", 56, "bicubic"),
    "filled": EvalView((48, 64), "classify", 40),
}


def images_of(h, w):
    """Noise, grey noise and a smooth picture with edges, uint8 [3, h, w, 3]."""
    rng = np.random.default_rng(h * 1000 + w)
    noise = rng.integers(0, 256, (h, w, 3))
    rows, columns = np.mgrid[:h, :w]
    waves = 128 + 90 * np.sin(rows / 9 + columns / 5) + rng.normal(0, 4, (h, w))
    smooth = np.stack([waves, 255 - waves, 0.5 * waves], -1)
    smooth[h // 4 : h // 2, w // 3 : w // 2] = (250, 20, 90)
    return np.stack([noise, noise[:, :, [1, 1, 1]], smooth.clip(0, 255)]).astype(np.uint8)


def differences(view, h, w):
    """Differences of grey levels of the input of `images_of`; scale and offset must be equal."""
    images = images_of(h, w)
    pixels, scale, offset = jax.jit(lambda batch: view_in_graph(batch, view))(images)
    assert (pixels.dtype, scale.dtype, offset.dtype) == (jnp.float32,) * 3
    found = []
    for image, ours in zip(images, np.asarray(pixels), strict=True):
        expected, expected_scale, expected_offset = view(image)
        assert scale == pytest.approx(expected_scale, rel=1e-6)
        np.testing.assert_array_equal(offset, expected_offset)
        found.append(np.abs(ours - expected.astype(np.float32)))
    return np.stack(found)


@pytest.mark.parametrize(
    "name, h, w",
    [("letterbox", *size) for size in [(1, 1), (3, 2), (37, 90), (60, 300), (2, 213), (750, 1100)]]
    + [
        ("crop", *size)
        for size in [(1, 1), (47, 113), (96, 128), (192, 256), (300, 60), (331, 257)]
    ],
)
def test_pixels_are_those_of_evaluation(name, h, w):
    found = differences(VIEWS[name], h, w)
    assert found.max() <= 1 and (found > 0).mean() < 0.005


@pytest.mark.parametrize(
    "name, h, w",
    [("bilinear", *size) for size in [(1, 1), (48, 64), (750, 1100)]]
    + [("bicubic", *size) for size in [(3, 2), (60, 300), (37, 90)]]
    + [("filled", *size) for size in [(1, 80), (56, 77)]],
)
def test_pixels_of_resized_images(name, h, w):
    # Where a side changes by a ratio of small numbers, many sums are halves, and Pillow's 22 bits
    # of a weight decide where they go.
    found = differences(VIEWS[name], h, w)
    assert found.max() <= 2 and (found > 1).mean() < 0.001 and (found > 0).mean() < 0.15


def test_halves_are_rounded_up_as_in_pillow():
    # Quarters and three quarters of whole numbers: an eighth of the sums are halves.
    assert not differences(VIEWS["bilinear"], 28, 28).any()


@pytest.mark.parametrize("size", [(224, 224), (320, 256), (33, 57)])
@pytest.mark.parametrize("inside", [True, False])
def test_every_size_is_rounded_as_in_evaluation(size, inside):
    rng = np.random.default_rng(0)
    every = np.arange(1, 3001)
    pairs = [rng.integers(1, 3001, (2, 50_000)), np.stack([every, every])]
    pairs += [np.stack([n * every[: 3000 // n], every[: 3000 // n]]) for n in (2, 3, 5)]
    pairs += [np.stack([every[::-1], np.full(3000, side)]) for side in (*size, 375, 480, 1080)]
    h, w = np.concatenate([*pairs, *(pair[::-1] for pair in pairs)], 1)

    @jax.jit
    @jax.vmap
    def rounded(h, w):
        scale = Scale.to_fit(h, w, size, inside=inside)
        offsets = scale.offset(h, size[0]), scale.offset(w, size[1])
        return scale.value, *offsets, scale.covered(h), scale.covered(w), scale.block()

    fit = np.minimum if inside else np.maximum
    scale = fit(size[0] / h, size[1] / w).astype(np.float32).astype(np.float64)
    expected = (
        scale,
        np.round((size[0] - h * scale) / 2),
        np.round((size[1] - w * scale) / 2),
        np.ceil(h * scale - 0.5),
        np.ceil(w * scale - 0.5),
        np.maximum(1, np.floor(1 / scale)),
    )
    for ours, theirs in zip(rounded(h.astype(np.int32), w.astype(np.int32)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["letterbox", "bicubic"])
def test_one_program_takes_any_number_and_size(name):
    view = VIEWS[name]
    shape = export.symbolic_shape("b, h, w, 3")
    program = export.export(jax.jit(lambda images: view_in_graph(images, view)))(
        jax.ShapeDtypeStruct(shape, jnp.uint8)
    )
    assert program.out_avals[0].shape[1:] == (*view.size, 3)
    for number, h, w in [(1, 30, 50), (3, 90, 41)]:
        images = images_of(h, w)[:number]
        pixels, _, offset = program.call(images)
        assert np.abs(np.asarray(pixels[0]) - view(images[0])[0].astype(np.float32)).max() <= 1
        np.testing.assert_array_equal(offset, view(images[0])[2])


def test_boxes_return_to_the_image_as_in_prediction():
    boxes = np.array([[[3, 4, 20.5, 30], [-50, -9, 900, 700], [0, 0, 0, 0]]], np.float32)
    scale, offset = np.float32(0.37), np.array([5, -2], np.float32)
    task = Detect(2, (48, 64))
    output = {"boxes": boxes[0], "valid": np.ones(3, bool)}
    expected = task.to_host(output, Placement(scale, offset, (90, 120)))["boxes"]
    found = boxes_to_original(boxes, scale, offset, 90, 120)
    np.testing.assert_allclose(found, expected[None], rtol=1e-6, atol=1e-5)
