"""Classes with few images, drawn more often (`data.balance`) or weighed more (`loss.balance`)."""

import dataclasses

from convmesh.data.order import DataOrder, class_weights, labels_for
from convmesh.data.record import Source
from convmesh.steps.setup import Setup


def with_class_weights(setup: Setup, source: Source) -> Setup:
    """`setup` with the weights of the classes of the training split in its loss.

    Raises ConfigError if the config balances classes that are known only from the images.
    """
    config = setup.config
    DataOrder.of(source, config)
    balance = config.loss.balance
    if config.task != "classify" or not balance:
        return setup
    labels = labels_for(f"loss.balance={balance:g}", source)
    weights = class_weights(labels, len(setup.classes), balance)
    return dataclasses.replace(setup, task=dataclasses.replace(setup.task, class_weights=weights))
