"""What a run does not train, by its config and its model."""

from typing import Any

from ml_collections import ConfigDict

from convmesh.models.depth import ALL, BACKBONE, Frozen

FEW_EXAMPLES = 16  # too few for batch statistics that are better than those of loaded weights


def make_frozen(config: ConfigDict, model: Any) -> Frozen:
    """The frozen stages and batch norms of a run of `model`.

    A model with the attribute `frozen_norm`, such as torchvision's first detectors, is defined with
    the batch norms of its backbone frozen. `train.frozen_norms=auto` freezes those of loaded
    weights (`init_from`) if fewer than FEW_EXAMPLES examples are normalised together.
    """
    train = config.train
    asked = train.frozen_norms == "true" or (
        train.frozen_norms == "auto"
        and bool(config.init_from)
        and examples_per_norm(config) < FEW_EXAMPLES
    )
    norms = ALL if config.task == "classify" else BACKBONE
    frozen = asked or getattr(model, "frozen_norm", False)
    return Frozen(train.frozen_stages, norms if frozen else "")


def examples_per_norm(config: ConfigDict) -> int:
    """The number of examples that a batch norm normalises together in a train step."""
    examples = config.train.batch_size // config.train.accumulate
    return config.model.norm_group or examples
