"""Printing: process 0 only, and never an error where the reader has gone."""

import subprocess
import sys

from convmesh.distributed import console, processes


def test_results_go_to_standard_output_and_status_lines_to_standard_error(capsys):
    console.print_result("AP 0.5")
    console.print_status("step 7")
    assert capsys.readouterr() == ("AP 0.5\n", "step 7\n")


def test_other_processes_are_silent(capsys, monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    console.print_result("AP 0.5")
    console.print_status("step 7")
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_does_not_end_the_program_or_change_its_exit_status():
    code = """
import os, sys
from convmesh.distributed import console
read_end, write_end = os.pipe()
os.dup2(write_end, 1)
os.close(read_end)
console.print_result("first")
console.print_result("second")
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (3, "")
