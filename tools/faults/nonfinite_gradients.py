"""A gradient that is not finite, on the one device that holds a marked image."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import runs
import trial
from flax import linen as nn

from convmesh import mesh as meshes
from convmesh import simulate_devices
from convmesh.config import defaults
from convmesh.distributed.batch import Batch
from convmesh.models.registry import MODELS
from convmesh.steps.compiled import TrainSteps
from convmesh.steps.setup import Setup, make_run_mesh, make_setup

DEVICES, BATCH, STEPS = 4, 8, 4


@jax.custom_vjp
def nan_gradient(logits, marked):
    """`logits` [batch, classes]; their gradient is NaN where `marked` [batch]."""
    return logits


nan_gradient.defvjp(
    lambda logits, marked: (logits, marked),
    lambda marked, g: (jnp.where(marked[:, None], jnp.nan, g), None),
)


class MarkedNet(nn.Module):
    """The tiny net, with a NaN gradient for an image whose first pixel is white."""

    classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        marked = (images[:, 0, 0] > 2.0).all(-1)  # normalised, white is 2.2 or more
        net = runs.TinyNet(classes=self.classes, dtype=self.dtype)
        return nan_gradient(net(images, train=train), marked)


def inject(n: int, seed: int) -> list[str]:
    """Trains n times with a marked image in one step; what differs from leaving that step out."""
    simulate_devices(DEVICES)
    MODELS["marked_net"] = ("classify", __name__, "MarkedNet")
    config = defaults("classify")
    config.model.name = "marked_net"
    config.data.image_size = (16, 16)
    config.train.batch_size, config.train.steps = BATCH, STEPS
    setup = make_setup(config, runs.CLASSES, make_run_mesh(config))
    steps, fresh = TrainSteps(setup), setup.create_state()
    rng, failures = random.Random(seed), []
    for _ in range(n):
        batches = [noise_batch(rng) for _ in range(STEPS)]
        marked_step, i = rng.randrange(STEPS), rng.randrange(BATCH)
        batches[marked_step].image[i, 0, 0] = 255
        where = f"step {marked_step}, image {i}"
        state, metrics = train(setup, steps, fresh, batches)
        expected, _ = train(setup, steps, fresh, batches, left_out=marked_step)
        if np.isfinite(float(metrics[marked_step]["gradient_norm"])):
            failures.append(f"{where}: the gradient was finite")
        if not np.isfinite(float(metrics[marked_step]["loss"])):
            failures.append(f"{where}: the loss was not finite, so this trial tests something else")
        if int(state.nonfinite_steps) != 1:
            failures.append(f"{where}: counted {int(state.nonfinite_steps)}")
        state = state.replace(nonfinite_steps=expected.nonfinite_steps)
        if trial.digest(state) != trial.digest(expected):
            failures.append(f"{where}: other bits than without that update")
    return failures


def noise_batch(rng: random.Random) -> Batch:
    """A batch of noise, no pixel of which is white."""
    noise = np.random.default_rng(rng.randrange(2**31))
    return Batch(
        image=noise.integers(0, 200, (BATCH, 16, 16, 3), np.uint8),
        label=noise.integers(0, 4, BATCH, np.int32),
        present=np.ones(BATCH, bool),
    )


def train(setup: Setup, steps: TrainSteps, state, batches: list[Batch], left_out: int = -1):
    """State and metrics after a step of each batch; the step `left_out` is only counted."""
    # Copied, since steps donate it. Waited for, since with more than 32 computations in flight on a
    # simulated device, the launch of a step can take the thread that its all-reduce needs.
    state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
    metrics = []
    for number, batch in enumerate(batches):
        if number == left_out:
            state, numbers = state.replace(step=state.step + 1), {}
        else:
            batch = meshes.make_global_batch(setup.mesh, batch, setup.train_shard())
            program = steps.get(batch) or steps.compile(state, batch)
            state, numbers = program(state, batch)
        metrics.append(numbers)
    return state, metrics
