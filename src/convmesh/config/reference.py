"""The table of keys as text, for `--help-config`."""

import textwrap

from convmesh.config.keys import KEYS
from convmesh.config.values import allowed


def describe() -> str:
    """The table of keys as text: default, meaning and allowed values of each."""
    lines = ["All config keys, with their defaults and allowed values."]
    group = None
    for name, key in KEYS.items():
        if name.partition(".")[0] != group and ("." in name or group is None):
            lines.append("")
        group = name.partition(".")[0] if "." in name else ""
        default = "(required)" if name == "task" else repr(key.default)
        note = f"; task {key.task} only" if key.task else ""
        lines.append(f"{name} = {default}")
        text = f"{key.doc} [{allowed(key)}{note}]"
        lines += textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
