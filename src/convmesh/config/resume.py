"""Which keys may change when a run resumes, and which may differ between its processes."""

from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import KEYS
from convmesh.config.tree import flatten
from convmesh.errors import ConfigError

# Keys and groups of keys. A change of any other key would make it a different run.
RESUME_MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.log_every_steps",
    "train.max_nonfinite_steps",
    "train.patience",
    "mesh",
    "data.root",
    "data.train_annotations",
    "data.train_images",
    "data.eval_annotations",
    "data.eval_images",
    "data.eval_resize",
    "data.eval_interpolation",
    "data.eval_size",
    "data.eval_split",  # another number of training examples is refused by itself
    "data.val_fraction",
    "data.on_bad_example",
    "data.max_bad_examples",
    "data.max_bad_boxes",
    "data.workers",
    "data.cache",
    "model.remat",
    "eval",
    "checkpoint",
)

# Keys that may change only from one of these values: with it no other example or box was learnt.
RESUME_MAY_CHANGE_FROM = {"data.on_bad_box": ("fail",)}

# Keys that processes of one run may set differently: where files lie, and how they are read.
PROCESSES_MAY_DIFFER = (
    "init_from",
    "data.root",
    "data.train_annotations",
    "data.train_images",
    "data.eval_annotations",
    "data.eval_images",
    "data.workers",
    "data.cache",
)


def changed_keys(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The keys whose values differ, in the order of `KEYS`."""
    before, now = dict(flatten(old)), dict(flatten(new))
    names = [*KEYS, *(name for name in [*before, *now] if name not in KEYS)]
    absent = object()
    return [n for n in dict.fromkeys(names) if before.get(n, absent) != now.get(n, absent)]


def may_change_on_resume(name: str) -> bool:
    """Whether a run may resume with another value of the key `name`."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in RESUME_MAY_CHANGE)


def same_for_all_processes(config: ConfigDict) -> dict[str, Any]:
    """The values that must be the same on all processes of a run, by key.

    The path `init_from` may differ, but not whether it is given.
    """
    values = dict(flatten(config))
    same = {name: value for name, value in values.items() if name not in PROCESSES_MAY_DIFFER}
    return same | {"init_from": "given" if values["init_from"] else "not given"}


def check_resume(old: ConfigDict, new: ConfigDict) -> None:
    """Raises ConfigError if a run with config `old` may not resume with `new`."""
    before, now = dict(flatten(old)), dict(flatten(new))
    refused = [
        name
        for name in changed_keys(old, new)
        if not may_change_on_resume(name)
        and before.get(name) not in RESUME_MAY_CHANGE_FROM.get(name, ())
    ]
    if refused:
        changes = ", ".join(f"{n} ({before.get(n)!r} -> {now.get(n)!r})" for n in refused)
        raise ConfigError(
            f"the workdir holds another run: {changes} changed; "
            "undo the change or use a new --workdir"
        )
