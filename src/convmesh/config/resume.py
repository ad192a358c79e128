"""Which keys may change when a run resumes."""

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
    "data.max_bad_examples",
    "data.max_bad_boxes",
    "data.workers",
    "data.cache",
    "eval",
    "checkpoint.every_steps",
    "checkpoint.keep",
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


def check_resume(old: ConfigDict, new: ConfigDict) -> None:
    """Raises ConfigError if a run with config `old` may not resume with `new`."""
    refused = [name for name in changed_keys(old, new) if not may_change_on_resume(name)]
    if refused:
        before, now = dict(flatten(old)), dict(flatten(new))
        changes = ", ".join(f"{n} ({before.get(n)!r} -> {now.get(n)!r})" for n in refused)
        raise ConfigError(
            f"the workdir holds another run: {changes} changed; "
            "undo the change or use a new --workdir"
        )
