"""Small data sets, a small model and short recipes, for the tests that need a run."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from convmesh.config import apply_overrides, defaults, load_config, to_json
from convmesh.models.registry import MODELS
from convmesh.models.resnet import ResNet
from convmesh.training import loop

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES = ("blue", "green", "grey", "red")
TRAIN_PHOTOS, VAL_PHOTOS = 24, 12
SCENES = "train[:8]"

# Norms, a shortcut, strides and a dense head, in 5 thousand parameters.
TinyNet = partial(ResNet, blocks=(1, 1), width=8)


def register_tiny_net(patch) -> str:
    """Adds `tiny_net` to the models, until `patch` is undone; returns its name."""
    patch.setitem(MODELS, "tiny_net", ("classify", __name__, "TinyNet"))
    return "tiny_net"


def make_photos(root: Path) -> Path:
    """Writes ROOT/SPLIT/CLASS/*.png: noise of four colours, no two of one size in a folder."""
    rng = np.random.default_rng(0)
    for split, total in (("train", TRAIN_PHOTOS), ("val", VAL_PHOTOS)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(total // len(CLASSES)):
                image = rng.integers(0, 150, (20, 24 + i, 3), np.uint8)
                if name != "grey":
                    image[..., ("red", "green", "blue").index(name)] += 105
                cv2.imwrite(str(root / split / name / f"{i}.png"), image[..., ::-1])
    return root


def photo_config(root, changes=()):
    """A recipe for `make_photos`: 8 steps of 8, evaluated and saved after 4 and after 8."""
    config = defaults("classify")
    config.model.name = "tiny_net"
    config.data.root = str(root)
    config.data.image_size = (16, 16)
    config.train.batch_size = 8
    config.train.steps = 8
    config.train.log_every_steps = 1
    config.eval.every_steps = 4
    return apply_overrides(config, changes)


def scene_config(root, changes=()):
    """The demo's recipe, made to learn 8 scenes by heart: no augmentation, smaller images."""
    config = load_config(CONFIGS / "demo.py")
    config.data.name = "digit_scenes/tiny"
    config.data.root = str(root)
    config.data.train_split = config.data.eval_split = SCENES
    config.data.augment.scale = (1.0, 1.0)
    config.data.augment.color = 0.0
    config.data.image_size = (160, 160)
    config.train.batch_size = 8
    config.train.steps = 200
    config.optimizer.learning_rate = 4e-3
    return apply_overrides(config, changes)


def train(config, workdir: Path) -> Path:
    """Trains; returns the workdir."""
    loop.train(config, workdir)
    return workdir


def train_in_another_process(config, workdir: Path, devices: int) -> Path:
    """Trains with the command line, on that many devices; returns the workdir."""
    recipe = write_recipe(workdir.with_suffix(".py"), config)
    command = [sys.executable, "-m", "convmesh", "train", "--config", recipe]
    command += ["--workdir", str(workdir), "--cpu-devices", str(devices)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return workdir


def copy(workdir: Path, to: Path) -> Path:
    """A copy of a run, for a test that changes it."""
    return Path(shutil.copytree(workdir, to))


def write_recipe(path: Path, config) -> str:
    """Writes `config` as a recipe file for the command line; returns its path."""
    path.write_text(
        "from convmesh.config import from_json\n\n\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n"
    )
    return str(path)
