"""Compares the classifiers with torchvision's (timm's for Lite): the same weights, the same logits.

    python tools/weight_parity.py --torch PYTHON [NAME ...]   # all models by default
    PYTHON tools/weight_parity.py --write-tiny NAME ...       # tests/models/data/NAME.npz

PYTHON is an interpreter with torch, torchvision and timm, which needs no JAX; the other one has
convmesh and needs no torch. For each model, torch makes random weights and batch statistics, the
same each time, and computes logits; here the weights go through `convmesh.weights.torch_names`, and
back. The table has the largest difference of a logit, relative to the largest logit, and that
between torch's logits in float32 and in float64, which is rounding: deep nets of random weights
amplify it. Exits with 1 where a difference is above 1e-4 in float32 or 1e-9 in float64, or where
weights do not come back equal.

`--first MODULE` is imported by PYTHON before torchvision, to prepare it on machines for which it
has no build. The tiny nets are torch's own classes at a few channels, judged in `make test`.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES = (2, 3, 130, 161)  # sides that are odd at some stride
TINY_IMAGES = (1, 3, 64, 64)
LARGEST = {"float32": 1e-4, "float64": 1e-9}
DATA = Path(__file__).parent.parent / "tests" / "models" / "data"

# --- in the interpreter with torch ----------------------------------------------------------------


def tiny_resnet(block: str, depths=(1, 2, 1, 1), width=4, **options):
    """Torchvision's ResNet, with few blocks, and `width` channels in place of 64."""
    from torch import nn
    from torchvision.models import resnet

    block = getattr(resnet, block)
    net = resnet.ResNet(block, [0, 0, 0, 0], num_classes=5, **options)
    net.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    net.inplanes = width
    for i, depth in enumerate(depths):
        layer = net._make_layer(block, width * 2**i, depth, stride=2 if i else 1)
        setattr(net, f"layer{i + 1}", layer)
    net.fc = nn.Linear(net.inplanes, 5)
    return net


def tiny_regnet():
    """Torchvision's RegNet, with squeeze-and-excitation, at 8 to 24 channels."""
    from torchvision.models.regnet import BlockParams, RegNet

    parameters = BlockParams(
        depths=[1, 2, 1, 1],
        widths=[8, 8, 16, 24],
        group_widths=[4] * 4,
        bottleneck_multipliers=[1.0] * 4,
        strides=[2] * 4,
        se_ratio=0.25,
    )
    return RegNet(parameters, num_classes=5, stem_width=8)


def tiny_mobilenet_v2():
    """Torchvision's MobileNetV2, with channels of a quarter: 8 to 24."""
    from torchvision.models.mobilenetv2 import MobileNetV2

    rows = [[1, 32, 1, 1], [2, 32, 2, 2], [2, 64, 1, 2], [2, 64, 1, 2], [2, 96, 1, 2]]
    return MobileNetV2(5, 0.25, rows)


def tiny_mobilenet_v3():
    """Torchvision's MobileNetV3, with both activations, with and without gates."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    rows = [
        (8, 3, 8, 8, True, "RE", 2),
        (8, 3, 16, 8, False, "RE", 2),
        (8, 5, 16, 16, True, "HS", 2),
        (16, 5, 32, 16, True, "HS", 2),
        (16, 3, 24, 16, False, "HS", 1),
    ]
    blocks = [InvertedResidualConfig(*row, dilation=1, width_mult=1.0) for row in rows]
    return MobileNetV3(blocks, last_channel=16, num_classes=5)


def tiny_efficientnet():
    """Torchvision's EfficientNet, with the fused blocks of V2 and those of B0."""
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    blocks = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        FusedMBConvConfig(2, 3, 2, 8, 16, 2),
        MBConvConfig(1, 3, 2, 16, 16, 1),
        MBConvConfig(4, 5, 2, 16, 24, 2),
        MBConvConfig(2, 3, 2, 24, 16, 1),
    ]
    return EfficientNet(blocks, dropout=0.2, num_classes=5, last_channel=32)


def tiny_lite():
    """Timm's EfficientNet-Lite at 8 to 24 channels."""
    from functools import partial

    from timm.models.efficientnet import EfficientNet, decode_arch_def
    from torch import nn

    rows = ["ds_r1_k3_s1_e1_c8", "ir_r1_k3_s2_e2_c8", "ir_r1_k5_s2_e2_c16", "ir_r2_k3_s2_e2_c16"]
    return EfficientNet(
        decode_arch_def([[row] for row in [*rows, "ir_r1_k5_s2_e2_c24"]]),
        num_classes=5,
        num_features=32,
        stem_size=8,
        fix_stem=True,
        pad_type="same",
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )


def tiny_convnext():
    """Torchvision's ConvNeXt at 8 to 24 channels."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    rows = [(8, 16, 1), (16, 16, 2), (16, 24, 1), (24, None, 1)]
    return ConvNeXt([CNBlockConfig(*row) for row in rows], num_classes=5)


# name: (what makes the net, its modules that give C3, C4 and C5)
LAYERS = ("layer2", "layer3", "layer4")
BLOCKS = ("trunk_output.block2", "trunk_output.block3", "trunk_output.block4")
TINY = {
    "tiny_resnet": (lambda: tiny_resnet("BasicBlock"), LAYERS),
    "tiny_resnext": (lambda: tiny_resnet("Bottleneck", groups=2, width_per_group=32), LAYERS),
    "tiny_regnet": (tiny_regnet, BLOCKS),
    "tiny_mobilenet_v2": (tiny_mobilenet_v2, ("features.4", "features.5", "features.6")),
    "tiny_mobilenet_v3": (tiny_mobilenet_v3, ("features.2", "features.3", "features.5")),
    "tiny_efficientnet": (tiny_efficientnet, ("features.3", "features.4", "features.5")),
    "tiny_lite": (tiny_lite, ("blocks.2", "blocks.3", "blocks.4")),
    "tiny_convnext": (tiny_convnext, ("features.3", "features.5", "features.7")),
}


def torch_model(name: str):
    """The model `name` of torchvision, or of timm for Lite, with random weights."""
    if name in TINY:
        return TINY[name][0]()
    if name.startswith("efficientnet_lite"):
        import timm

        return timm.create_model(f"tf_{name}", pretrained=False)
    from torchvision.models import get_model

    return get_model(name, weights=None)


def randomise(net, images) -> None:
    """Gives every weight and statistic of `net` a value that matters, and that float16 holds.

    The statistics are those of a batch, changed a little, so that no signal explodes or vanishes.
    """
    import torch
    from torch import nn

    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net.eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 1 or "layer_scale" in name:
                value.uniform_(0.25, 0.75) if name.endswith("weight") else value.normal_(0, 0.2)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        net(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.1 * deviation * torch.randn_like(deviation)
            norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
    net.eval()


def write(name: str, file: Path, shape: tuple[int, ...]) -> None:
    """Writes weights, images, logits and, of a tiny net, features, for the model `name`."""
    import torch

    torch.manual_seed(0)
    net, images = torch_model(name), torch.randn(shape).half().float()
    randomise(net, images)
    arrays = {f"weight/{k}": v.numpy() for k, v in net.state_dict().items()}
    arrays = {key: value.astype(np.float16) for key, value in arrays.items() if value.ndim}
    arrays["images"] = images.permute(0, 2, 3, 1).numpy().astype(np.float16)
    features = []
    if name in TINY:
        for module in TINY[name][1]:
            net.get_submodule(module).register_forward_hook(lambda *args: features.append(args[2]))
    with torch.no_grad():
        arrays["logits/float32"] = net(images).numpy()
        features.clear()
        arrays["logits/float64"] = net.double()(images.double()).numpy()
    for i, feature in enumerate(features):
        arrays[f"features/{i}"] = feature.permute(0, 2, 3, 1).float().numpy()
    np.savez_compressed(file, **arrays)


# --- in the interpreter with convmesh -------------------------------------------------------------


def errors(name: str, file: Path) -> tuple[int, dict[str, float]]:
    """Parameters of the model `name`, and the errors of its logits: by dtype, and torch's."""
    import jax

    from convmesh.models.registry import make_model
    from convmesh.weights.torch_names import from_torch, to_torch

    arrays = np.load(file)
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    found = {}
    for dtype in LARGEST:
        model = make_model(name, "classify", 1000, dtype)
        images = arrays["images"].astype(dtype)
        abstract = jax.eval_shape(model.init, jax.random.key(0), images)
        variables, fit = from_torch(model.torch_names(), abstract, state)
        fit.require_complete(str(file), name)
        back = to_torch(model.torch_names(), variables)
        if any(not np.array_equal(back[key], state[key]) for key in state):
            raise SystemExit(f"{name}: a weight does not come back equal")
        logits, wanted = jax.jit(model.apply)(variables, images), arrays[f"logits/{dtype}"]
        found[dtype] = error(logits, wanted)
    found["torch"] = error(arrays["logits/float32"], arrays["logits/float64"])
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"])), found


def error(logits, wanted) -> float:
    """The largest difference, relative to the largest logit."""
    return float(abs(logits - wanted).max() / abs(wanted).max())


def compare(names: list[str], torch: list[str]) -> bool:
    """Prints a row for each model; whether all are equal. `torch`: the command that writes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    print(
        "| model | parameters | float32 | float64 | rounding |\n|---|---|---|---|---|", flush=True
    )
    equal = True
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            subprocess.run([*torch, "--write", str(file), name], check=True)
            parameters, found = errors(name, file)
        cells = [f"`{name}`", f"{parameters:,}", *(f"{each:.0e}" for each in found.values())]
        print("| " + " | ".join(cells) + " |", flush=True)
        equal &= all(found[dtype] <= largest for dtype, largest in LARGEST.items())
    return equal


def classifiers() -> list[str]:
    """The classifiers that torchvision or timm has too."""
    from convmesh.models.registry import MODELS, OWN_CLASSIFIERS

    names = [name for name, (task, *_) in MODELS.items() if task == "classify"]
    return [name for name in names if name not in OWN_CLASSIFIERS]


def main() -> None:
    """Compares, or writes for the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with torch")
    parser.add_argument("--first", default="", help="module that it imports first")
    parser.add_argument("--write", metavar="FILE", type=Path, help="only write the arrays of NAME")
    parser.add_argument("--write-tiny", action="store_true", help="write those of the tests")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    if args.torch:
        command = [args.torch, __file__, "--first", args.first]
        sys.exit(not compare(args.names or classifiers(), command))
    if args.first:
        importlib.import_module(args.first)
    if args.write_tiny:
        for name in args.names or TINY:
            write(name, DATA / f"{name}.npz", TINY_IMAGES)
    elif args.write and len(args.names) == 1:
        write(args.names[0], args.write, IMAGES)
    else:
        parser.error("give --torch PYTHON, --write-tiny, or --write FILE NAME")


if __name__ == "__main__":
    main()
