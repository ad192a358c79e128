"""Compiled programs kept on disk: used by the next process, compiled again if damaged."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from convmesh.distributed import compile_cache

CODE = """
import jax, logging
from convmesh.distributed import compile_cache
jax.jit(lambda x: x - 1)(1.0)  # JAX has compiled before the cache starts
folder = compile_cache.start()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: x @ x + 3)(jax.numpy.ones((2, 2)))[0, 0]))
print(sum(name.endswith("cache_hits") for name in hits), folder)
"""


def run_once(cache):
    """Runs CODE in a fresh process; returns its result, its cache hits and standard error."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"CONVMESH_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    answer, rest = done.stdout.splitlines()
    return float(answer), int(rest.split()[0]), done.stderr


def entries(cache):
    return sorted(cache.glob("*/*-cache"))


def test_a_second_process_uses_cached_programs_and_recompiles_damaged_ones(tmp_path):
    assert run_once(tmp_path)[:2] == (5.0, 0)
    first = {path: path.read_bytes() for path in entries(tmp_path)}
    answer, found, _ = run_once(tmp_path)
    assert (answer, found) == (5.0, len(first)) and found > 0

    for path, data in first.items():  # one bit
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    answer, found, errors = run_once(tmp_path)
    assert (answer, found, errors) == (5.0, 0, "")
    assert entries(tmp_path) == sorted(first)
    assert run_once(tmp_path)[:2] == (5.0, len(first))


def test_evict_deletes_unverified_and_the_oldest_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 250)
    for age, name in enumerate(("new-cache", "old-cache", "oldest-cache", "unverified-cache")):
        (tmp_path / name).write_bytes(b"x" * 100)
        if name != "unverified-cache":
            checksum = tmp_path / f"{name}.sha256"
            checksum.write_text(hashlib.sha256(b"x" * 100).hexdigest())
            os.utime(checksum, (1e9 - age, 1e9 - age))
    (tmp_path / "notes").write_text("a user's own file")
    compile_cache.evict(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new-cache", "new-cache.sha256", "notes", "old-cache", "old-cache.sha256",
    ]  # fmt: skip


def test_no_cache_where_jax_has_one_the_folder_cannot_be_created_or_none_is_wanted(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("a cache was set up"))
    assert compile_cache._jax_folder()  # set by the tests themselves
    assert compile_cache.start() is None
    monkeypatch.setattr(compile_cache, "_jax_folder", str)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path / "file"))
    assert compile_cache.start() is None
    assert "cannot be cached" in capsys.readouterr().err
    monkeypatch.setenv("CONVMESH_CACHE", "")
    assert compile_cache.start() is None
    assert capsys.readouterr().err == ""


def test_the_folder_is_the_systems_for_user_caches_unless_another_is_named(monkeypatch):
    for name in ("CONVMESH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(sys, "platform", "linux")
    assert compile_cache.user_folder() == Path("/home/ada/.cache/convmesh")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert compile_cache.user_folder() == Path("/home/ada/Library/Caches/convmesh")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/ada")
    assert compile_cache.user_folder() == Path("/scratch/ada/convmesh")
    monkeypatch.setenv("CONVMESH_CACHE", "~/programs")
    assert compile_cache.user_folder() == Path("/home/ada/programs")


def test_entries_of_exactly_the_largest_size_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 100)
    (tmp_path / "a-cache").write_bytes(b"x" * 100)
    (tmp_path / "a-cache.sha256").write_text(hashlib.sha256(b"x" * 100).hexdigest())
    compile_cache.evict(tmp_path)
    assert (tmp_path / "a-cache").exists()


def test_checksums_are_written_once_and_in_the_own_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path))
    for folder in ("ours/a", "elsewhere/below/a"):
        (tmp_path / folder).parent.mkdir(parents=True)
        (tmp_path / f"{folder}-cache").write_bytes(b"x")
        monkeypatch.setattr(compile_cache, "_jax_folder", (tmp_path / folder).parent.__str__)
        compile_cache.write_checksums()
    checksum = tmp_path / "ours" / "a-cache.sha256"
    assert list(tmp_path.rglob("*.sha256")) == [checksum]
    assert checksum.read_text() == hashlib.sha256(b"x").hexdigest()
    (tmp_path / "ours" / "a-cache").write_bytes(b"damaged since")
    monkeypatch.setattr(compile_cache, "_jax_folder", checksum.parent.__str__)
    compile_cache.write_checksums()
    assert checksum.read_text() == hashlib.sha256(b"x").hexdigest()


def test_the_cache_is_of_one_version_of_jax_and_one_kind_of_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(compile_cache, "_jax_folder", str)
    monkeypatch.setattr(compile_cache.atexit, "register", lambda _: None)
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path))
    names = []
    for flags in ({"avx2", "sse"}, {"avx512f", "sse"}):
        monkeypatch.setattr(compile_cache, "cpu_flags", lambda flags=flags: flags)
        names.append(compile_cache.start().name)
    assert names[0] != names[1]
    assert all(name.startswith(f"{jax.__version__}-") for name in names)


def test_a_cache_that_cannot_be_written_is_only_read(tmp_path, monkeypatch):
    monkeypatch.setenv(compile_cache.FOLDER, str(tmp_path))
    monkeypatch.setattr(compile_cache, "_jax_folder", lambda: "")
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    for writable in (True, False):
        monkeypatch.setattr(compile_cache.os, "access", lambda *_, answer=writable: answer)
        assert compile_cache.start().parent == tmp_path
        seconds = set_to["jax_persistent_cache_min_compile_time_secs"]
        assert (seconds < 1) if writable else (seconds > 1e6)
