"""All tests run on 8 simulated CPU devices, whatever the machine has; and the runs they share."""

import atexit
import fcntl
import importlib.metadata
import os
import shutil
import signal
import tempfile

# Compiling is most of the suite's time: LLVM need not optimise, and no program is compiled twice.
# Whoever runs tests again and again can name a folder that outlives the session.
_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones refuse to know it
    _FAST += " --xla_cpu_use_fusion_emitters=false"  # half the time for the steps of the tiny nets
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FAST}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="convmesh-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from convmesh.distributed import devices, stop_signals  # noqa: E402

devices._keep_freed_memory = lambda: None  # it speeds up steps and slows compiling
devices.simulate_devices(8)

# Under nohup SIGHUP is ignored, and the runs that the tests start would ignore it, too.
for _number in stop_signals.NOTICES:
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jobs  # noqa: E402
import object_stores  # noqa: E402
import pytest  # noqa: E402
import runs  # noqa: E402

# The same examples in every run, so that a failure comes back, and no database of them.
hypothesis.settings.register_profile("tests", derandomize=True, max_examples=50, deadline=None)
hypothesis.settings.load_profile("tests")
# Where each example compiles a program of its own, shrinking a failing one would take minutes.
hypothesis.settings.register_profile(
    "compiled",
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)


def pytest_sessionstart(session):
    """Fails, not skips, where the devices are missing: the proofs would prove nothing."""
    if jax.device_count() != 8:
        raise pytest.UsageError(f"the tests need 8 simulated devices, JAX has {jax.device_count()}")


# Files that take minutes: first, so that the processes that share the files end together.
SLOW = (
    "tools/test_campaign.py",
    "steps/test_equality",
    "test_notebooks.py",
    "inference/test_prediction.py",
    "training/test_several_processes.py",
    "bench/",
)


def pytest_collection_modifyitems(config, items):
    """Sorts the files of SLOW to the front."""
    tests = config.rootpath / "tests"

    def is_quick(item):
        return not str(item.path.relative_to(tests)).startswith(SLOW)

    items.sort(key=is_quick)


@pytest.fixture
def float64():
    """64-bit arithmetic for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def tiny_net():
    """Makes the model `tiny_net` known: a ResNet that compiles in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        yield runs.register_tiny_net(patch)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder data set of small pictures, see `runs.make_photos`; not to be changed."""
    return runs.make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory, tiny_net, photos):
    """The workdir of a whole run on `photos`, 8 steps undisturbed; not to be changed."""
    return runs.train(runs.photo_config(photos), tmp_path_factory.mktemp("runs") / "photos")


@pytest.fixture(scope="session")
def tfds_root(tmp_path_factory):
    """A folder for TFDS data sets; DigitScenes writes itself there when it is first opened."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def scene_run(tmp_path_factory, tfds_root):
    """The workdir of a detector that has learnt 8 scenes by heart; not to be changed.

    Trained on 2 devices, so what the tests do with it on 8 it does on a mesh it has not seen.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes of this session: the first trains, the others wait
    workdir = root / "scenes"
    with open(root / "scenes.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not workdir.exists():
            runs.train_in_another_process(runs.scene_config(tfds_root), workdir, devices=2)
    return workdir


@pytest.fixture
def job(tmp_path):
    """`job(body, *flags, **env)`: see `jobs.start`; what still runs at the end is killed."""
    started = []

    def start(body, *flags, **env):
        started.append(jobs.start(tmp_path, body, *flags, **env))
        return started[-1]

    yield start
    jobs.kill(started)


@pytest.fixture(scope="session")
def servers():
    """Servers of object stores, for the tests of this process; see `object_stores`."""
    with object_stores.servers():
        yield


@pytest.fixture(params=object_stores.SCHEMES)
def address(servers, request):
    """An empty folder in an object store, of each scheme in turn."""
    return object_stores.new_address(request.param)
