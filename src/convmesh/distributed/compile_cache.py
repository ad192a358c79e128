"""The cache of compiled programs in the user's cache folder, so that a restart need not compile.

JAX writes and reads the entries. It never replaces a damaged entry and does not reliably detect
one, so the SHA-256 of each entry is stored in a second file; an entry without a matching checksum
is deleted at the next start and compiled again.
"""

import atexit
import hashlib
import os
import platform
import sys
from pathlib import Path

from convmesh.distributed.devices import cpu_flags

FOLDER = "CONVMESH_CACHE"  # environment variable: another folder, or empty for no cache
MAX_BYTES = 2**30  # of all entries; beyond it the oldest are deleted
_ENTRY, _CHECKSUM = "-cache", ".sha256"


def start() -> Path | None:
    """Enables JAX's compilation cache; returns its folder, or None if nothing is cached.

    Does nothing if JAX already has a cache folder (JAX_COMPILATION_CACHE_DIR). If the folder cannot
    be written, a message goes to standard error and nothing is cached.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if _jax_folder() or os.environ.get(FOLDER) == "":
        return None
    folder = user_folder() / f"{jax.__version__}-{_machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        evict(folder)
    except OSError as error:
        print(
            f"compiled programs cannot be cached: {error} (${FOLDER} sets another folder)",
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A folder that others have filled may be read-only: JAX reads it, and would warn at each write.
    least = 0.1 if os.access(folder, os.W_OK) else 1e9
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    compilation_cache.reset_cache()  # if JAX has compiled before, it has decided to use no cache
    atexit.register(write_checksums)
    return folder


def user_folder() -> Path:
    """`$CONVMESH_CACHE`, or `convmesh/` in the operating system's folder for user caches."""
    if folder := os.environ.get(FOLDER):
        return Path(os.path.expanduser(folder))
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "convmesh"


def _jax_folder() -> str:
    import jax

    return jax.config.values["jax_compilation_cache_dir"] or ""


def _machine() -> str:
    """A short hash of this CPU's architecture and instruction sets.

    A home folder may be shared by machines with different CPUs, and code compiled for one may not
    run on another.
    """
    known = " ".join([platform.machine(), platform.processor(), *sorted(cpu_flags())])
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def evict(folder: Path) -> None:
    """Deletes entries without a matching checksum, then the oldest ones beyond MAX_BYTES."""
    good = []
    for entry in folder.glob(f"*{_ENTRY}"):
        checksum = _checksum_file(entry)
        if checksum.is_file() and checksum.read_bytes() == _sha256(entry).encode():
            good.append((checksum.stat().st_mtime, entry))
        else:
            _remove(entry)
    total = 0
    for _, entry in sorted(good, reverse=True):
        total += entry.stat().st_size
        if total > MAX_BYTES:
            _remove(entry)


def write_checksums() -> None:
    """Writes the checksum of each new entry; called after programs have been compiled."""
    folder = Path(_jax_folder())
    if folder.parent != user_folder():
        return
    for entry in folder.glob(f"*{_ENTRY}"):
        checksum = _checksum_file(entry)
        try:
            if not checksum.exists():
                temporary = checksum.with_name(f"{checksum.name}.{os.getpid()}")
                temporary.write_text(_sha256(entry))
                os.replace(temporary, checksum)
        except OSError:
            # A full disk, or another run has evicted the entry; without a checksum it is compiled
            # again.
            return


def _checksum_file(entry: Path) -> Path:
    return entry.with_name(entry.name + _CHECKSUM)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(entry: Path) -> None:
    for path in (entry, _checksum_file(entry)):
        path.unlink(missing_ok=True)
