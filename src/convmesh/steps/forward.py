"""The forward pass in training, traced but never run, to estimate the costs of a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from convmesh.data.augmentation.sizes import input_sizes
from convmesh.models.registry import make_model
from convmesh.programs.flops import result_bytes
from convmesh.steps.freezing import make_frozen


class TracedForward(NamedTuple):
    """A forward pass with initial weights, `function(key, images)`, and its arguments' shapes.

    With shapes only, JAX can trace it before its backend has started.
    """

    function: Callable
    key: jax.ShapeDtypeStruct
    images: jax.ShapeDtypeStruct


def training_forward(model: Any, batch_size: int, image_size: tuple[int, int]) -> TracedForward:
    """The forward pass of `model` in training, for images [batch_size, *image_size, 3]."""

    def forward(key: Any, images: Any) -> Any:
        return model.init_with_output(key, images, train=True)[0]

    return TracedForward(
        function=forward,
        key=jax.eval_shape(lambda: jax.random.key(0)),
        images=jax.ShapeDtypeStruct((batch_size, *image_size, 3), model.dtype),
    )


def forward_jaxpr(forward: TracedForward) -> Any:
    """The jaxpr of a forward pass."""
    return jax.make_jaxpr(forward.function)(forward.key, forward.images).jaxpr


def check_norm_values(config: ConfigDict) -> None:
    """Raises ConfigError if a batch norm of a train step would see one value of each channel.

    Does not start JAX's backend.
    """
    examples = config.train.batch_size // config.train.accumulate
    if (config.model.norm_group or examples) != 1:  # else there are at least two values
        return
    model = _model(config)
    with make_frozen(config, model).norms_as_in_evaluation():
        forward_jaxpr(training_forward(model, examples, input_sizes(config)[0]))


def expected_temporaries(config: ConfigDict) -> float:
    """An estimate of the bytes that a train step needs besides its state, over all devices.

    Five times the results of the forward pass's convolutions and matrix products: XLA's CPU backend
    took 4.6 to 5.1 times that, for the demo's detector and for ResNet-18. Does not start JAX's
    backend.
    """
    batch_size = config.train.batch_size // config.train.accumulate
    # Sizes that do not divide are refused later, when the mesh is known.
    batch_size = max(1, batch_size, config.model.norm_group)
    forward = training_forward(_model(config), batch_size, input_sizes(config)[-1])
    return 5.0 * result_bytes(forward_jaxpr(forward))


def _model(config: ConfigDict) -> Any:
    """The model for one class."""
    options = config.model
    narrow = config.precision in ("auto", "bfloat16")  # float32 here: this is about CPUs
    dtype = jnp.float32 if narrow else jnp.dtype(config.precision)
    return make_model(dtype=dtype, task=config.task, classes=1, **options)
