"""The bar and the lines that show how far a run is."""

import io
import math
import os

import pytest

from convmesh.distributed import processes
from convmesh.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """The lines that a terminal shows after all that was written."""
        rows, row, column = [""], 0, 0
        for letter in self.getvalue():
            if letter == "\r":
                column = 0
            elif letter == "\n":
                row, column = row + 1, 0
                rows.append("")
            else:
                rows[row] = rows[row][:column].ljust(column) + letter + rows[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in rows]


@pytest.fixture(autouse=True)
def a_real_terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


def progress(total=2000, start=0, batch=32, **more):
    more.setdefault("stream", io.StringIO())
    return Progress(total, start, batch, **more)


def test_plain_lines_at_times_where_there_is_no_terminal():
    seconds = iter([0, 9, 10, 12, 13])
    run = progress(batch=10, clock=lambda: next(seconds))
    run.show(120, 1.2341, 75.2)
    run.show(121, 1.5, 75)  # 9 seconds later: too soon
    run.show(122, 0.0123456, 4.31)
    run.show(2000, math.nan, 75)  # too soon, but the last step
    run.show(2000)
    run.close()
    assert run._stream.getvalue().splitlines() == [
        "step 120/2000  loss 1.234  75 images/s  4:10 left",
        "step 122/2000  loss 0.01235  4.3 images/s  1:12:37 left",
        "step 2000/2000  loss nan  75 images/s",
        "step 2000/2000",
    ]


@pytest.mark.parametrize("speed", [None, 0.0, math.nan, math.inf])
def test_an_unknown_speed_is_not_shown(speed):
    run = progress()
    run.show(1, 2.0, speed)
    assert run._stream.getvalue() == "step 1/2000  loss 2.000\n"


def test_a_bar_on_a_terminal_and_lines_above_it():
    stream, seconds = Terminal(), iter(range(10))
    with progress(200, 50, 10, stream=stream, clock=lambda: next(seconds)) as run:
        run.log("resumes from step 50")
        run.show(60, 2.5, 70)
        run.log("checkpoint at step 60")
        run.show(100, 1.25, 10)
        lines = stream.screen()
        assert lines[:2] == ["resumes from step 50", "checkpoint at step 60"]
        assert lines[2].startswith("step 100/200 |")
        assert lines[2].endswith("| loss 1.250  10 images/s  1:40 left")
        assert len(lines) == 3
        run.show(200, 1, 10)
    assert stream.screen()[2].startswith("step 200/200 |")
    assert stream.screen()[3:] == [""]  # what comes next starts on its own line


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    progress(stream=stream).show(1, 2.0)
    assert stream.getvalue() == "step 1/2000  loss 2.000\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (250, "4:10"), (7450, "2:04:10")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_other_processes_print_nothing(monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    stream = Terminal()
    with progress(stream=stream) as run:
        run.show(1, 1, 1)
        run.log("hello")
    assert stream.getvalue() == ""


def test_closing_twice():
    run = progress(stream=Terminal())
    run.show(1, 1, 1)
    run.close()
    run.close()


def test_a_bar_is_drawn_anew_after_a_tenth_of_a_second():
    seconds = iter([0.0, 0.05, 0.15])
    with progress(stream=Terminal(), clock=lambda: next(seconds)) as run:
        shown = []
        for step in (1, 2, 3):
            run.show(step)
            shown.append(run._bar.n)
    assert shown == [1, 1, 3]


def test_the_bar_of_a_run_that_resumes_begins_at_its_step():
    with progress(200, 50, stream=Terminal()) as run:
        run.show(60)
        assert (run._bar.initial, run._bar.total) == (50, 200)


def test_a_terminal_that_is_closed_gets_lines_from_then_on(monkeypatch):
    run = progress(stream=Terminal(), clock=iter(range(0, 100, 20)).__next__)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_draw_bar", lambda *_: os.write(-1, b""))  # an OSError
        run.show(1, 2.0)
    run.show(2, 1.0)
    assert run._stream.getvalue() == "step 2/2000  loss 1.000\n"


@pytest.mark.parametrize("columns, bar", [(0, False), (80, True)])
def test_a_terminal_without_columns_gets_lines(monkeypatch, columns, bar):
    stream = Terminal()
    stream.fileno = lambda: 2
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    assert progress(stream=stream)._on_terminal is bar
