"""The data order: pinned, and a new permutation in each epoch."""

import numpy as np
import pytest

from convmesh.data import order

# Twenty positions over ten examples, seed 0.
PINNED = [3, 7, 4, 2, 9, 8, 1, 6, 5, 0, 9, 1, 2, 8, 4, 5, 3, 6, 7, 0]


def test_each_epoch_has_its_own_permutation():
    size = 11
    epochs = [
        [order.example_at(epoch * size + i, size, seed=3) for i in range(size)]
        for epoch in range(3)
    ]
    for epoch, found in enumerate(epochs):
        assert [e for e, _ in found] == [epoch] * size
        assert sorted(i for _, i in found) == list(range(size))
    orders = [[i for _, i in found] for found in epochs]
    other_seed = [order.example_at(i, size, seed=4)[1] for i in range(size)]
    assert len({tuple(order) for order in [*orders, other_seed, sorted(orders[0])]}) == 5


def test_the_order_is_pinned():
    """Another order would silently change every run that is resumed."""
    assert [order.example_at(i, 10, 0)[1] for i in range(20)] == PINNED


# --- classes drawn more often ---------------------------------------------------------------------

LABELS = np.array([0] * 12 + [1] * 3 + [2] * 1)  # 16 examples


def drawn(balance, epochs, seed=3):
    classes = order.ClassOrder.of(LABELS, balance, seed)
    data = order.DataOrder(16, seed, classes)
    return [data(position) for position in range(16 * epochs)]


@pytest.mark.parametrize(
    ("balance", "places"),
    # Shares 12 : 3 : 1; sqrt(12) : sqrt(3) : 1 = 8.9, 4.5, 2.6 of 16; and 5.3 each.
    [(0.0, [12, 3, 1]), (0.5, [9, 4, 3]), (1.0, [6, 5, 5])],
)
def test_the_places_of_an_epoch_by_class(balance, places):
    for epoch in range(3):
        labels = LABELS[[i for _, i in drawn(balance, 3)[16 * epoch : 16 * (epoch + 1)]]]
        assert np.bincount(labels).tolist() == places


def test_each_class_takes_its_examples_in_turn():
    found = drawn(1.0, 6)
    for label, each in ((0, 36 / 12), (1, 30 / 3), (2, 30)):
        indices = [(epoch, i) for epoch, i in found if LABELS[i] == label]
        counts = np.bincount([i for _, i in indices])
        assert set(counts[counts > 0]) == {each}  # 6 epochs of 6, 5 and 5 places
        # How often it was drawn before.
        assert len(set(indices)) == len(indices)
        assert {epoch for epoch, _ in indices} == set(range(int(each)))


def test_classes_are_mixed_within_an_epoch_and_seeds_differ():
    labels = LABELS[[i for _, i in drawn(1.0, 1)]]
    assert (np.diff(labels) != 0).sum() > 4
    assert drawn(1.0, 2) == drawn(1.0, 2) != drawn(1.0, 2, seed=4)


def test_what_takes_the_place_of_an_unreadable_example():
    assert list(order.DataOrder(4, 0).substitutes(2)) == [2, 3, 0, 1]
    labels = np.array([0, 1, 0, 1, 1, 0])
    balanced = order.DataOrder(6, 0, order.ClassOrder.of(labels, 1.0, 0))
    # Its class first: a rare class must not become the class that follows it in the folder.
    assert list(balanced.substitutes(3)) == [3, 4, 1, 4, 5, 0, 1, 2]
    assert list(balanced.substitutes(5)) == [5, 0, 2, 0, 1, 2, 3, 4]


def test_an_empty_class_gets_no_place():
    classes = order.ClassOrder.of(np.array([0, 0, 2]), 1.0, 0)
    assert np.diff(classes.places).tolist() in ([2, 0, 1], [1, 0, 2])


def test_weights_of_classes_by_hand():
    # 1/12, 1/3, 1: every class weighs alike, and the mean over the 16 examples is 1.
    weights = order.class_weights(LABELS, 4, 1.0)
    assert weights[:3] == pytest.approx((16 / 3 / 12, 16 / 3 / 3, 16 / 3))
    half = order.class_weights(LABELS, 3, 0.5)
    assert np.array(half)[LABELS].mean() == pytest.approx(1)
    assert half[2] / half[0] == pytest.approx(12**0.5)
    assert order.class_weights(LABELS, 3, 0.0) == (1.0, 1.0, 1.0)
