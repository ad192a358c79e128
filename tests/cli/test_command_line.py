"""The `convmesh` command: devices, processes, exit statuses and tracebacks."""

import subprocess
import sys

import pytest

from convmesh.cli.command_line import main
from convmesh.errors import ConfigError, DataError, Stopped


@pytest.mark.parametrize("before", [True, False])
def test_cpu_devices_are_simulated_before_the_command(calls, recipe, monkeypatch, before):
    monkeypatch.setattr(
        "convmesh.distributed.devices.simulate_devices", lambda n: calls.made.append(("devices", n))
    )
    command = ["train", "--config", recipe, "--workdir", "w"]
    devices = ["--cpu-devices", "8"]
    assert main([*devices, *command] if before else [*command, *devices]) == 0
    assert [call[0] for call in calls.made] == ["devices", "train"]
    assert calls.made[0] == ("devices", 8)


def test_the_flags_of_several_processes(calls, workdir, monkeypatch):
    monkeypatch.setattr(
        "convmesh.distributed.launch.start", lambda *flags: calls.made.append(("start", flags))
    )
    monkeypatch.setattr(
        "convmesh.distributed.failure.finish", lambda: calls.made.append(("finish",))
    )

    def run_locally(command, n, resumes, received):
        calls.made.append(("locally", [command(i, "127.0.0.1:9") for i in range(n)]))
        return 75

    monkeypatch.setattr("convmesh.distributed.launch.run_locally", run_locally)
    flags = ["--coordinator", "10.0.0.1:1234", "--process-id", "1", "--num-processes=2"]
    flags += ["--start-timeout", "60"]
    for argv in ([*flags, "eval", "--workdir", workdir], ["eval", "--workdir", workdir, *flags]):
        assert main(argv) == 0
        assert [call[0] for call in calls.made] == ["start", "evaluate", "finish"]
        assert calls.made[0][1] == ("10.0.0.1:1234", 2, 1, 60)
        calls.made.clear()
    for alone in ([], ["--num-processes", "1"]):
        assert main(["eval", "--workdir", workdir, *alone]) == 0
        assert calls.made[0] == ("start", (None, len(alone) // 2 or None, None, None))
        calls.made.clear()

    argv = ["predict", "--workdir", workdir, "--output", "o", "--num-processes", "2", "--", "--a"]
    assert main(argv) == 75
    again = [sys.executable, "-m", "convmesh", "--coordinator=127.0.0.1:9"]
    assert calls.made == [
        ("locally", [[*again, "--process-id=0", *argv], [*again, "--process-id=1", *argv]])
    ]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("train.seed changed"), 2, "convmesh: error: train.seed changed"),
        (Stopped("stopped at step 7"), 75, "convmesh: stopped at step 7"),
        (KeyboardInterrupt(), 130, "convmesh: interrupted"),
        (SystemExit("gave up"), 1, "convmesh: error: gave up"),
    ],
)
def test_a_run_that_fails_returns_its_status_and_prints_one_line(
    failed, calls, recipe, error, status, line
):
    calls.error = error
    assert failed("train", "--config", recipe, "--workdir", "w") == (status, line)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_while_training_joins_other_processes_is_a_stop(recipe, name):
    code = (
        "import signal, sys\n"
        "from convmesh.cli.command_line import main\n"
        "from convmesh.distributed import launch\n"
        f"launch.start = lambda *job: signal.raise_signal(signal.{name})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", "--config", recipe, "--workdir", "w"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    line = f"convmesh: stopped by {name} before the run had started; run it again\n"
    assert (done.returncode, done.stderr) == (75, line)


def test_the_status_of_a_command_is_returned(monkeypatch, recipe):
    monkeypatch.setattr("convmesh.cli.data_commands.check_data", lambda args, overrides: 1)
    assert main(["check-data", "--config", recipe]) == 1


@pytest.mark.parametrize("error", [DataError("a.jpg: cut short"), RuntimeError("a.jpg: cut short")])
def test_debug_shows_the_traceback(calls, recipe, capsys, error):
    calls.error = error
    assert main(["train", "--config", recipe, "--workdir", "w", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().splitlines()[-1].endswith("a.jpg: cut short")


def test_python_m_convmesh_is_the_command():
    command = [sys.executable, "-m", "convmesh", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == "convmesh: error: trian: no such command; did you mean train?"


def test_processes_are_started_by_the_program_that_was_called(monkeypatch):
    monkeypatch.setattr(
        "convmesh.distributed.launch.run_locally",
        lambda command, n, resumes, received: made.append(command(0, "h:9")),
    )
    made = []
    argv = ["recipes", "--num-processes", "2"]
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-O", "/bin/convmesh", *argv])
    main(argv)
    job = ["--coordinator=h:9", "--process-id=0"]
    assert made == [[sys.executable, "-O", "/bin/convmesh", *job, *argv]]


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (ConfigError("wrong"), [("fail", "convmesh: error: wrong", 2)]),
        (DataError("gone"), [("fail", "convmesh: error: gone", 1)]),
        (Stopped("stopped at step 7"), [("finish",)]),
    ],
)
def test_an_error_of_one_of_several_processes_ends_all(calls, recipe, monkeypatch, error, ended):
    made, failure = [], "convmesh.distributed.failure"
    monkeypatch.setattr(f"{failure}.watched", lambda: True)
    monkeypatch.setattr(f"{failure}.fail", lambda *args: made.append(("fail", *args)))
    monkeypatch.setattr(f"{failure}.finish", lambda: made.append(("finish",)))
    calls.error = error
    assert main(["train", "--config", recipe, "--workdir", "w"]) == error.exit_code
    assert made == ended


@pytest.mark.parametrize(
    ("flags", "ends", "counts"),
    [
        (["--elastic"], [76, 77, 0], [4, 2, 1]),
        (["--elastic"], [76, 76, 76], [4, 2, 1]),
        (["--elastic"], [75], [4]),
        (["--elastic"], [1], [4]),
        ([], [76], [4]),
    ],
)
def test_elastic_starts_fewer_processes_while_one_is_lost(recipe, monkeypatch, flags, ends, counts):
    started = []

    def run_locally(command, n, resumes, received):
        (*_, last) = command(0, "127.0.0.1:9")
        started.append((n, last))
        return ends[len(started) - 1]

    monkeypatch.setattr("convmesh.distributed.launch.run_locally", run_locally)
    argv = ["train", "--config", recipe, "--workdir", "w", "--num-processes=4", *flags]
    assert main(argv) == ends[-1]
    assert [n for n, _ in started] == counts
    assert [last for _, last in started[1:]] == [f"--num-processes={n}" for n in counts[1:]]


def test_elastic_does_not_start_again_after_a_signal(recipe, monkeypatch):
    def run_locally(command, n, resumes, received):
        received.append(15)
        return 76

    monkeypatch.setattr("convmesh.distributed.launch.run_locally", run_locally)
    argv = ["train", "--config", recipe, "--workdir", "w", "--num-processes=4", "--elastic"]
    assert main(argv) == 76
