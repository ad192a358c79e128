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
from convmesh.models import MODELS
from convmesh.setup import make_run_mesh, make_setup
from convmesh.state import create_state
from convmesh.step import jit_train_step
from convmesh.training import step_parts

DEVICES, BATCH, STEPS = 4, 8, 4


@jax.custom_vjp
def spoil(logits, marked):
    """`logits` [batch, classes]; their gradient is NaN where `marked` [batch]."""
    return logits


spoil.defvjp(
    lambda logits, marked: (logits, marked),
    lambda marked, g: (jnp.where(marked[:, None], jnp.nan, g), None),
)


class PoisonedNet(nn.Module):
    """The tiny net, whose gradient an image that is white in its first pixel spoils."""

    classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        marked = (images[:, 0, 0] > 2.0).all(-1)  # normalised, white is 2.2 or more
        net = runs.TinyNet(classes=self.classes, dtype=self.dtype)
        return spoil(net(images, train=train), marked)


def poisoned(n: int, seed: int) -> list[str]:
    """Trains n times with a marked image in one step; what differs from leaving that step out."""
    simulate_devices(DEVICES)
    MODELS["poisoned_net"] = ("classify", "poison", "PoisonedNet")
    config = defaults("classify")
    config.model.name = "poisoned_net"
    config.data.image_size = (16, 16)
    config.train.batch_size, config.train.steps = BATCH, STEPS
    setup = make_setup(config, runs.CLASSES, make_run_mesh(config))
    share = meshes.share_of(setup.mesh, BATCH, 16, 1)
    fresh = create_state(**setup.state_arguments())
    rng, failures, step = random.Random(seed), [], None
    for _ in range(n):
        noise = np.random.default_rng(rng.randrange(2**31))
        batches = [
            {
                "image": noise.integers(0, 200, (BATCH, 16, 16, 3), np.uint8),
                "label": noise.integers(0, 4, BATCH, np.int32),
                "present": np.ones(BATCH, bool),
            }
            for _ in range(STEPS)
        ]
        bad, place = rng.randrange(STEPS), rng.randrange(BATCH)
        batches[bad]["image"][place, 0, 0] = 255
        ends = []
        for left_out in (False, True):
            state = jax.tree.map(jnp.copy, fresh)  # since steps donate it
            for at, batch in enumerate(batches):
                if left_out and at == bad:
                    state = state.replace(step=state.step + 1)
                    continue
                placed = meshes.place(setup.mesh, batch, share)
                step = step or jit_train_step(setup.mesh, state, placed, **step_parts(setup))
                state, numbers = step(state, placed)
                if at == bad and np.isfinite(float(numbers["gradient_norm"])):
                    failures.append(f"step {bad}, image {place}: the gradient was finite")
                if at == bad and not np.isfinite(float(numbers["loss"])):
                    failures.append("the loss was not finite: not what was to be tried")
            ends.append(state)
        spoiled, clean = ends
        if int(spoiled.nonfinite_steps) != 1:
            failures.append(f"step {bad}: counted {int(spoiled.nonfinite_steps)}")
        spoiled = spoiled.replace(nonfinite_steps=clean.nonfinite_steps)
        if trial.digest(spoiled) != trial.digest(clean):
            failures.append(f"step {bad}, image {place}: other bits than without that update")
    return failures
