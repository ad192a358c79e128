"""All tests run on 8 simulated CPU devices, whatever the machine has."""

from convmesh.devices import simulate_devices

simulate_devices(8)

import jax  # noqa: E402
import pytest  # noqa: E402


def pytest_sessionstart(session):
    """Fails, not skips, where the devices are missing: the proofs would prove nothing."""
    if jax.device_count() != 8:
        raise pytest.UsageError(f"the tests need 8 simulated devices, JAX has {jax.device_count()}")


@pytest.fixture
def float64():
    """64-bit arithmetic for one test."""
    with jax.enable_x64(True):
        yield
