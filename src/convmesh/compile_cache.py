"""Compiled programs kept in the user's cache folder, so that a second start need not compile.

JAX writes and reads the entries. It would never replace one that was damaged, and finds damage only
by luck, so here each entry is vouched for by its SHA-256: what cannot be is taken away at the next
start, and made again.
"""

import atexit
import hashlib
import os
import platform
import sys
from pathlib import Path

from convmesh.devices import cpu_flags

FOLDER = "CONVMESH_CACHE"  # the environment variable that names another folder; empty: none
MOST_BYTES = 2**30  # of entries; beyond, the oldest go
_ENTRY, _SUM = "-cache", ".sha256"


def start() -> Path | None:
    """Makes JAX keep what it compiles; returns the folder, or None where there is none.

    Does nothing where JAX has been given a folder already (JAX_COMPILATION_CACHE_DIR). A folder
    that cannot be written is named on standard error, and nothing is kept.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if _jax_folder() or os.environ.get(FOLDER) == "":
        return None
    folder = user_folder() / f"{jax.__version__}-{_machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        print(
            f"compiled programs cannot be kept: {error} (${FOLDER} names another folder)",
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    compilation_cache.reset_cache()  # whoever compiled before has made JAX look for none
    atexit.register(vouch)
    return folder


def user_folder() -> Path:
    """`$CONVMESH_CACHE`, or `convmesh/` where the system keeps a user's caches."""
    if given := os.environ.get(FOLDER):
        return Path(given).expanduser()
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "convmesh"


def _jax_folder() -> str:
    import jax

    return jax.config.values["jax_compilation_cache_dir"] or ""


def _machine() -> str:
    """What code compiled for this CPU may not run without, as a short name.

    A home folder may be shared by machines of several kinds.
    """
    known = " ".join([platform.machine(), platform.processor(), *sorted(cpu_flags())])
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def sweep(folder: Path) -> None:
    """Takes away entries that are damaged or not vouched for, then the oldest beyond MOST_BYTES."""
    sound = []
    for entry in folder.glob(f"*{_ENTRY}"):
        mark = entry.with_name(entry.name + _SUM)
        if mark.is_file() and mark.read_bytes() == _sum(entry).encode():
            sound.append((mark.stat().st_mtime, entry))
        else:
            _remove(entry)
    held = 0
    for _, entry in sorted(sound, reverse=True):
        held += entry.stat().st_size
        if held > MOST_BYTES:
            _remove(entry)


def vouch() -> None:
    """Writes the sum of each new entry beside it; called when something has been compiled."""
    folder = Path(_jax_folder())
    if folder.parent != user_folder():
        return
    for entry in folder.glob(f"*{_ENTRY}"):
        mark = entry.with_name(entry.name + _SUM)
        try:
            if not mark.exists():
                beside = mark.with_name(f"{mark.name}.{os.getpid()}")
                beside.write_text(_sum(entry))
                os.replace(beside, mark)
        except (
            OSError
        ):  # a full disk, or another run's sweep: what is not vouched for is made again
            return


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(entry: Path) -> None:
    for path in (entry, entry.with_name(entry.name + _SUM)):
        path.unlink(missing_ok=True)
