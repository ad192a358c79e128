"""Logs model, data, devices and when is saved, before the first step."""

import jax

from convmesh import mesh as meshes
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.distributed import devices, processes
from convmesh.models.depth import BACKBONE
from convmesh.steps.freezing import examples_per_norm
from convmesh.steps.setup import Setup, layout_notes
from convmesh.training.hooks import Hook, RunView


class Announcement(Hook):
    """Logs model, devices, data, its caches, compiler options, and what is not sharded."""

    def on_start(self, run: RunView) -> None:
        """Logs them, and the step from which the run resumes."""
        config, mesh, data = run.setup.config, run.setup.mesh, run.data
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
        kind = mesh.devices.flat[0].device_kind
        several = f" of {processes.count()} processes" if processes.count() > 1 else ""
        run.log(
            f"{run.setup.model_name}, {parameters / 1e6:.2f} M parameters, {run.setup.precision}, "
            f"on {mesh.size} x {kind} (mesh: {meshes.describe(mesh)}){several}"
        )
        run.log(
            f"{len(data.train)} images to train on ({data.train.split}), {len(data.eval)} to "
            f"evaluate ({data.eval.split}), {len(run.setup.classes)} classes; "
            f"{run.setup.steps} steps of {config.train.batch_size}"
        )
        if data.cached:
            run.log(data.cached)
        sizes = input_sizes(config)
        if len(sizes) > 1:
            named = ", ".join(f"{height} x {width}" for height, width in sizes)
            how = ", smallest first" if config.data.size_order == "growing" else ""
            run.log(f"images of {named} (height x width){how}, each compiled at its first step")
        options = devices.compiler_options(meshes.platform(mesh))
        if options:
            flags = " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
            run.log(f"XLA options: {flags} (XLA_FLAGS overrides them)")
        if line := frozen_note(run.setup):
            run.log(line)
        for line in layout_notes(run.setup):
            run.log(line)
        run.log(f"checkpoints: {when_saved(run.setup)}")
        if run.start_step:
            run.log(f"resuming from the checkpoint of step {run.start_step}")


def frozen_note(setup: Setup) -> str:
    """What is not trained, as a line for the log; "" if everything is."""
    frozen, train, parts = setup.frozen, setup.config.train, []
    if frozen.stages:
        stages = "stage" if frozen.stages == 1 else f"{frozen.stages} stages"
        parts.append(f"the stem and the first {stages} (train.frozen_stages)")
    if frozen.norms:
        of = "of the backbone " if frozen.norms == BACKBONE else ""
        cause = f"train.frozen_norms={train.frozen_norms}"
        if train.frozen_norms == "auto":
            cause += f": {examples_per_norm(setup.config)} examples are normalised together"
        elif train.frozen_norms == "false":
            cause = f"as {setup.config.model.name} is defined"
        parts.append(f"the batch norms {of}({cause})")
    return f"not trained: {'; '.join(parts)}" if parts else ""


def when_saved(setup: Setup) -> str:
    """When a run saves, as text: every how many minutes and steps."""
    settings, times = setup.config.checkpoint, []
    if settings.every_minutes:
        times.append(f"every {settings.every_minutes:g} minutes")
    if settings.every_steps:
        times.append(f"every {settings.every_steps} steps")
    if 0 < setup.eval_every < setup.steps and setup.eval_every != settings.every_steps:
        times.append(f"with each evaluation, every {setup.eval_every} steps")
    if not times:
        return "only at the end and at a stop (checkpoint.every_minutes, checkpoint.every_steps)"
    return f"{', '.join(times)}, at the end and at a stop"
