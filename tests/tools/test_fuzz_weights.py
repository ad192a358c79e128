"""The fuzzer of weight files: a short run, and that it sees what it is there to see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUZZER = ROOT / "tools" / "fuzz_weights.py"
PATHS = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tools"), str(ROOT / "src")])


def run(*command):
    environment = os.environ | {"PYTHONPATH": PATHS}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_short_run_finds_no_failure():
    done = run(FUZZER, 60, "--seed", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 60 |" in done.stdout


@pytest.mark.parametrize(
    "reader, words",
    [
        ("os.system('true')", "os.system"),
        ("open('canary', 'w')", "it left a file"),
        ("open('/dev/full', 'w').name", "open ('/dev/full'"),
        ("subprocess.run(['true'])", "subprocess.Popen"),
        ("pickle.loads(b'cos\\ngetcwd\\n)R.')", "pickle.find_class"),
        ("os.abort()", "ended with -6"),
        ("time.sleep(9)", "not done after 2 s"),
        ("np.ones(140_000_000).sum()", "GB of memory"),
        ("int('x')", "ValueError"),
        ("fail(DataError('two\\nlines'))", "not a line"),
        ("{'a': np.array(['x'])}", "'a' is <U1"),
        ("{'a': np.broadcast_to(np.ones(1), (2**26,))}", "bytes from a file of"),
    ],
)
def test_harm_is_seen(reader, words, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "weights").write_bytes(b"x")
    done = run(
        "-c",
        f"""if True:
        import os, pickle, subprocess, sys, time, pathlib
        import numpy as np, fuzz_weights
        from convmesh.errors import DataError
        def fail(error):
            raise error
        fuzz_weights.SECONDS = {2 if "sleep" in reader else 60}
        fuzz_weights.read_weights = lambda path: {reader}
        folder = pathlib.Path({str(tmp_path)!r})
        print(fuzz_weights.judge(folder / "weights", folder).failure)""",
    )
    assert words in done.stdout, done.stdout + done.stderr
