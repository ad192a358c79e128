"""The data order: pinned, and a new permutation in each epoch."""

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
