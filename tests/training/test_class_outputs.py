"""Which columns of class outputs are those of classes of the same name in another model."""

import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.training.class_outputs import ClassOutputs, same_names

NEW, OLD = ("Cat", "bee", "dog"), ("ant", "dog", "CAT", "cow")


def columns(classes_first, here, one_more, there):
    found = ClassOutputs((3, 4), same_names(NEW, OLD), classes_first)
    return found.find({"a": here}, {"a": one_more}, {"a": there})


@pytest.mark.parametrize("background", [0, 1])
@pytest.mark.parametrize("per_class", [1, 4])
@pytest.mark.parametrize("classes_first", [False, True])
def test_each_column_is_that_of_its_class(background, per_class, classes_first):
    def named(classes):
        names = [*["background"] * background, *map(str.casefold, classes)]
        rows = [[f"{name} {part}" for name in names] for part in range(per_class)]
        return np.array(rows).T.ravel() if classes_first else np.array(rows).ravel()

    new, old = named(NEW), named(OLD)
    shapes = [(5, per_class * (n + background)) for n in (3, 4, 4)]
    found = columns(classes_first, *shapes)["a"]
    assert old[found.source[found.taken]].tolist() == new[found.taken].tolist()
    assert all("bee" in name for name in new[~found.taken])
    assert (~found.taken).sum() == per_class
    merged = np.asarray(found.merge(np.ones((5, len(old))), jnp.zeros((5, len(new)))))
    np.testing.assert_array_equal(merged, np.tile(found.taken, (5, 1)))


def test_other_arrays_are_left():
    assert columns(False, (5, 6), (5, 6), (5, 8)) == {}  # no output of classes
    assert columns(False, (5, 3), (5, 4), (6, 4)) == {}  # of another layer before it
    assert columns(False, (5, 3), (5, 4), (5, 9)) == {}
    assert columns(False, (5, 3), (5, 4), (5, 3)) == {}  # of the same shape


def test_the_same_classes_in_another_order_change_places():
    swapped = ("dog", "cat", "bee")
    found = ClassOutputs((3, 3), same_names(NEW, swapped), False)
    columns = found.find({"a": (5, 3)}, {"a": (5, 4)}, {"a": (5, 3)})["a"]
    assert columns.source.tolist() == [1, 2, 0] and columns.taken.all()
    found = ClassOutputs((3, 3), same_names(NEW, NEW), False)
    assert found.find({"a": (5, 3)}, {"a": (5, 4)}, {"a": (5, 3)}) == {}
    # A known class at another index: those of a name go by it, and the third is new.
    found = ClassOutputs((3, 3), same_names(NEW, ("dog", "cat", "cow")), False)
    columns = found.find({"a": (5, 3)}, {"a": (5, 4)}, {"a": (5, 3)})["a"]
    assert columns.taken.tolist() == [True, False, True]
    assert columns.source[columns.taken].tolist() == [1, 0]
    # All known ones at their index: the others may have been renamed, so all columns stay.
    found = ClassOutputs((3, 3), same_names(NEW, ("cat", "cow", "dog")), False)
    assert found.find({"a": (5, 3)}, {"a": (5, 4)}, {"a": (5, 3)}) == {}
