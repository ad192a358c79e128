"""Fixtures for tests with several real processes."""

import jobs
import pytest


@pytest.fixture
def job(tmp_path):
    """`job(body, *flags, **env)`: see `jobs.start`; what still runs at the end is killed."""
    started = []

    def start(body, *flags, **env):
        started.append(jobs.start(tmp_path, body, *flags, **env))
        return started[-1]

    yield start
    jobs.kill(started)
