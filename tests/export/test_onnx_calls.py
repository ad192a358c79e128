"""Suppression, up-sampling and loops as ONNX give what JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from onnx_programs import assert_same, model_of, operators

from convmesh.export.input_view import sums_of_blocks
from convmesh.export.onnx_trace import NotConvertible
from convmesh.ops.pool import upsample_bilinear, upsample_nearest
from convmesh.ops.suppression import best_distinct, suppress


def boxes(seed, *shape):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 60, (*shape, 2)), rng.uniform(5, 40, (*shape, 2))
    labels = rng.integers(0, 3, shape).astype(np.int32)
    scores = rng.permutation(np.linspace(-0.2, 1, np.prod(shape)))
    together = np.concatenate([corner, corner + size], -1).astype(np.float32)
    return together, labels, scores.reshape(shape).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.65])
def test_suppression_of_a_batch(threshold):
    found, labels, scores = boxes(0, 3, 50)

    def kept(boxes, labels, scores):
        one = lambda b, c, s: suppress(b, c, s > 0, threshold)  # noqa: E731
        return jax.vmap(one)(boxes, labels, scores)

    model = assert_same(kept, found, labels, scores, symbolic=[0, 1, 2])
    assert "NonMaxSuppression" in operators(model)
    kept_now = kept(found, labels, scores)
    assert 0 < kept_now.sum() < (scores > 0).sum()  # it has something to do


def test_suppression_of_one_image_and_of_one_class():
    found, labels, scores = boxes(1, 40)
    assert_same(lambda b, c, s: suppress(b, c, s > 0, 0.5), found, labels, scores)
    found, _, scores = boxes(2, 2, 40)

    def of_one_class(boxes, scores):
        one = lambda b, s: suppress(b, jnp.zeros(40, jnp.int32), s > 0, 0.5)  # noqa: E731
        return jax.vmap(one)(boxes, scores)

    assert_same(of_one_class, found, scores, symbolic=[0, 1])


@pytest.mark.parametrize("batch", [3, 10])
def test_the_best_that_are_kept(batch):
    found, labels, scores = boxes(3, batch, 60)

    def best(boxes, labels, scores):
        def one(boxes, labels, scores):
            index, valid = best_distinct(boxes, labels, scores, 0.4, 10)
            return jnp.where(valid, index, -1), valid

        return jax.vmap(one)(boxes, labels, scores)

    assert_same(best, found, labels, scores, symbolic=[0, 1, 2])
    assert_same(best, found, labels, scores)


def test_the_best_of_one_image_where_few_are_boxes():
    found, labels, scores = boxes(4, 30)
    scores[5:] = -1

    def best(boxes, labels, scores):
        index, valid = best_distinct(boxes, labels, scores, 0.4, 20)
        return jnp.where(valid, index, -1), valid

    assert_same(best, found, labels, scores)


def test_without_suppression_there_is_no_operator_for_it():
    found, labels, scores = boxes(5, 2, 20)

    def kept(boxes, labels, scores):
        one = lambda b, c, s: suppress(b, c, s > 0, 1.0)  # noqa: E731
        return jax.vmap(one)(boxes, labels, scores)

    assert "NonMaxSuppression" not in operators(assert_same(kept, found, labels, scores))


def test_up_sampling():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    model = assert_same(lambda x: upsample_nearest(x, 2), x, symbolic=[0])
    assert "Resize" in operators(model)
    assert_same(lambda x: upsample_bilinear(x, 2), x)


@pytest.mark.parametrize("length, starts", [(1, [0, 4, 2]), (3, [0, 3, 3]), (4, [1, 0, 4])])
def test_sums_of_blocks_repeat_the_last_row(length, starts):
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7)).astype(np.float32)
    starts, block = np.array(starts, np.int32), np.array(length, np.int32)
    wanted = [x[:, :, [min(s + i, 4) for i in range(length)]].sum(2) for s in starts]
    np.testing.assert_array_equal(sums_of_blocks(x, starts, block), np.stack(wanted, -1))

    def both_sides(x, starts, block):
        return sums_of_blocks(sums_of_blocks(x, starts, block), starts + 2, block)

    model = assert_same(both_sides, x, starts, block, symbolic=[0])
    assert "MatMul" not in operators(model) and "Einsum" not in operators(model)


def test_a_short_loop_is_written_out():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)

    def loop(x):
        return lax.scan(lambda total, row: (total + row, total * row), jnp.ones(3), x)

    assert_same(loop, x)
    with pytest.raises(NotConvertible, match="a loop .* of 100 rounds"):
        model_of(lambda x: lax.scan(lambda c, _: (c + x.sum(), None), 0.0, length=100)[0], x)


def test_a_loop_of_unknown_length_is_refused_by_its_name():
    def loop(x):
        return lax.while_loop(lambda x: x.sum() < 100, lambda x: 2 * x, x)

    with pytest.raises(NotConvertible, match="'while'.*--format stablehlo"):
        model_of(loop, np.ones(3, np.float32))
