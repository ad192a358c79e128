"""Compiled programs that outlive the process: used again, and made again where damaged."""

import os
import subprocess
import sys

import pytest

from convmesh import compile_cache

CODE = """
import jax, logging
from convmesh import compile_cache
jax.jit(lambda x: x - 1)(1.0)  # somebody has compiled before
folder = compile_cache.start()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: x @ x + 3)(jax.numpy.ones((2, 2)))[0, 0]))
print(sum(name.endswith("cache_hits") for name in hits), folder)
"""


def start_twice(cache):
    """Runs CODE in a fresh process; returns its answer and how many programs it found compiled."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"CONVMESH_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    answer, rest = done.stdout.splitlines()
    return float(answer), int(rest.split()[0]), done.stderr


def entries(cache):
    return sorted(cache.glob("*/*-cache"))


def test_the_second_start_finds_what_the_first_compiled_and_damage_is_made_again(tmp_path):
    assert start_twice(tmp_path)[:2] == (5.0, 0)
    first = {path: path.read_bytes() for path in entries(tmp_path)}
    answer, found, _ = start_twice(tmp_path)
    assert (answer, found) == (5.0, len(first)) and found > 0

    for path, data in first.items():  # one bit
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    answer, found, errors = start_twice(tmp_path)
    assert (answer, found, errors) == (5.0, 0, "")
    assert entries(tmp_path) == sorted(first)
    assert start_twice(tmp_path)[:2] == (5.0, len(first))


def test_what_nobody_vouches_for_and_the_oldest_of_too_much_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MOST_BYTES", 250)
    for age, name in enumerate(("new-cache", "old-cache", "oldest-cache", "half-cache")):
        (tmp_path / name).write_bytes(b"x" * 100)
        if name != "half-cache":
            mark = tmp_path / f"{name}.sha256"
            mark.write_text(compile_cache._sum(tmp_path / name))
            os.utime(mark, (1e9 - age, 1e9 - age))
    (tmp_path / "notes").write_text("somebody's")
    compile_cache.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new-cache", "new-cache.sha256", "notes", "old-cache", "old-cache.sha256",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_made_is_named_and_none_is_asked_for(tmp_path, monkeypatch, capsys):
    import jax

    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("a cache was set up"))
    assert (
        compile_cache._jax_folder() and compile_cache.start() is None
    )  # JAX's own is left as it is
    monkeypatch.setattr(compile_cache, "_jax_folder", str)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path / "file"))
    assert compile_cache.start() is None
    assert "cannot be kept" in capsys.readouterr().err
    monkeypatch.setenv("CONVMESH_CACHE", "")
    assert compile_cache.start() is None
    assert capsys.readouterr().err == ""
