"""What is learned and how it is judged. A task is a handful of pure functions over whole batches.

Both tasks have the same face, and the step and the loop know no more of them:

- `sums(outputs, batch) -> dict`: scalars that add up over examples, devices and micro-batches,
  among them `loss` and `total`, what the loss is divided by;
- `finish(sums) -> (loss, numbers)`: from the sums over everything to the loss, and scalars by name
  for the log; `loss(outputs, batch)` is both at once;
- `predict(outputs) -> dict`: arrays [batch, ...], on the devices;
- `to_host(one, placement) -> dict`: the same of one image, in terms of the original image;
- `metrics(truth, found, classes)`, `results(...)`, `table(...)`: what evaluation writes and prints;
- `best_metric`: the name of the metric that tells the best checkpoint.
"""

import jax.numpy as jnp

# The mean and deviation of ImageNet's pixels, as the weights that people share expect them.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)


def normalise(images, dtype):
    """Images [batch, rows, columns, 3] RGB of 0 to 255 to about zero mean and unit deviation."""
    scale = 1 / (255 * jnp.array(PIXEL_DEVIATION, dtype))
    shift = jnp.array(PIXEL_MEAN, dtype) / jnp.array(PIXEL_DEVIATION, dtype)
    return images.astype(dtype) * scale - shift


class Loss:
    """The part that both tasks have: sums are divided by what stands in all of them, once."""

    def loss(self, outputs, batch, *given):
        """The loss of a whole batch, and the numbers for the log."""
        return self.finish(self.sums(outputs, batch, *given))

    @staticmethod
    def divisor(sums):
        """What the summed loss, and so its gradient, is divided by: the total, at least 1."""
        return jnp.maximum(sums["total"], 1)


def make_task(config, classes: int, model=None):
    """The task that `config.task` names, for that many classes.

    A detector's points are those of `model`, or of one with the usual strides.
    """
    from convmesh.models.detector import STRIDES
    from convmesh.tasks.classify import Classify
    from convmesh.tasks.detect import Detect

    size = tuple(config.data.image_size)
    if config.task == "detect":
        given = config.loss
        return Detect(
            classes,
            size,
            class_weight=given.class_weight,
            distribution_weight=given.distribution_weight,
            box_confidence=given.box_confidence,
            assignment=given.assignment,
            strides=STRIDES if model is None else model.strides,
        )
    return Classify(classes, size)
