"""The table of commands: their flags, help texts, and the functions that run them.

Only the standard library is imported here, so that `--help` is fast. The module of a command is
imported when the command runs.
"""

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from convmesh.cli.flags import (
    Flag,
    batch_size,
    file_path,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
    sides,
    workdir_path,
)


@dataclass(frozen=True)
class Command:
    """One command. Its function is called with the parsed flags and the overrides of the config.

    summary: begins in lower case, without a full stop. takes_overrides: whether --config.KEY=VALUE
    can be given. module, function: the function that runs it, which returns the exit status, or
    None for 0. resumes: whether a signal makes it save, and the same call then resumes.
    """

    name: str
    summary: str
    example: str
    flags: tuple[Flag, ...]
    takes_overrides: bool
    module: str
    function: str
    resumes: bool = False

    def load(self) -> Callable[..., int | None]:
        """Imports the module; returns the function that runs the command."""
        return getattr(importlib.import_module(self.module), self.function)


RECIPE = Flag(
    "--config",
    "the recipe: a Python file, or a name of `convmesh recipes`",
    metavar="FILE",
    parse=file_path,
    required=True,
)
TRAINED = Flag(
    "--workdir",
    "a workdir written by `convmesh train`",
    metavar="DIR",
    parse=workdir_path,
    required=True,
)
WORKDIR = Flag(
    "--workdir", "folder that the run is written to", "DIR", parse=workdir_path, required=True
)
CHECKPOINT = (
    Flag(
        "--step",
        "step of the checkpoint (default: the newest intact one)",
        metavar="N",
        parse=non_negative_int,
        excludes="checkpoint",
    ),
    Flag("--best", "the checkpoint with the best metric", excludes="checkpoint"),
)
JSON = Flag("--json", "print one JSON object, for programs")

TRAIN = Command(
    name="train",
    summary="train a recipe in a workdir, or resume the run that is there",
    example="convmesh train --config demo --workdir runs/demo --config.train.steps=500",
    flags=(
        RECIPE,
        WORKDIR,
        Flag(
            "--profile",
            "trace this many steps into DIR/profile, for xprof, and print what took their time",
            metavar="STEPS",
            parse=positive_int,
            default=0,
        ),
        Flag(
            "--example-log",
            "write one JSON line per training example: its step, epoch, position and name",
            metavar="FILE",
            parse=file_path,
            hidden_alias="--debug-ledger",
        ),
        Flag(
            "--elastic",
            "fit the mesh to the devices that are there, with the same global batch; if one of the "
            "local processes is lost or hangs, start again with fewer",
        ),
    ),
    takes_overrides=True,
    module="convmesh.cli.run_commands",
    function="train",
    resumes=True,
)

EVAL = Command(
    name="eval",
    summary="evaluate a checkpoint of a run; mesh and data.root may differ from training",
    example="convmesh eval --workdir runs/demo --split test",
    flags=(
        TRAINED,
        Flag("--split", "split to evaluate (default: the one that the run evaluates)", "NAME"),
        *CHECKPOINT,
    ),
    takes_overrides=True,
    module="convmesh.cli.run_commands",
    function="evaluate",
)

PREDICT = Command(
    name="predict",
    summary="run a trained model on images and videos; write predictions.json and draw each",
    example="convmesh predict --workdir runs/demo photos/ 'more/*.jpg' --output predicted",
    flags=(
        Flag(
            "--workdir",
            "a workdir written by `convmesh train`",
            metavar="DIR",
            parse=workdir_path,
            excludes="model",
        ),
        Flag(
            "--model",
            "instead of a workdir: a file written by `convmesh export --format onnx`",
            metavar="FILE.onnx",
            parse=file_path,
            excludes="model",
        ),
        Flag("paths", "image and video files, folders, globs", "PATH", parse=file_path, many=True),
        Flag("--output", "folder for the results", "OUT", parse=file_path, required=True),
        Flag(
            "--threshold",
            "lowest score of a detection (default: %(default)s)",
            metavar="T",
            parse=fraction,
            default=0.3,
        ),
        Flag(
            "--iou",
            "IoU threshold of non-maximum suppression (default: the model's)",
            metavar="T",
            parse=fraction,
        ),
        Flag(
            "--max-detections",
            "largest number of detections per image (default: %(default)s)",
            metavar="N",
            parse=positive_int,
            default=100,
        ),
        Flag(
            "--top-k",
            "number of classes listed by a classifier (default: %(default)s)",
            metavar="K",
            parse=positive_int,
            default=5,
        ),
        Flag(
            "--batch-size",
            "images per batch (default: %(default)s)",
            metavar="N",
            parse=positive_int,
            default=8,
        ),
        Flag("--save-txt", "also write a text file of boxes for each image"),
    ),
    takes_overrides=False,
    module="convmesh.cli.run_commands",
    function="predict",
)

OVERFIT = Command(
    name="overfit",
    summary="overfit the first images of the data, to test that model, labels and loss fit",
    example="convmesh overfit --config demo --workdir runs/overfit",
    flags=(
        RECIPE,
        WORKDIR,
        Flag(
            "--images",
            "number of images: the first that hold an object (default: %(default)s)",
            metavar="N",
            parse=positive_int,
            default=8,
        ),
        Flag(
            "--steps",
            "length of the run in steps (default: %(default)s)",
            metavar="S",
            parse=positive_int,
            default=200,
        ),
    ),
    takes_overrides=True,
    module="convmesh.cli.run_commands",
    function="overfit",
)

PREPARE = Command(
    name="prepare",
    summary="download a TFDS data set and convert it to the format that training reads",
    example="convmesh prepare --name coco/2017 --root data",
    flags=(
        Flag("--name", "the data set, as in data.name", "TFDS_NAME", required=True),
        Flag(
            "--root",
            "folder to write it to, as in data.root (default: the folder of TFDS)",
            metavar="DIR",
            parse=file_path,
            default="",
        ),
    ),
    takes_overrides=False,
    module="convmesh.cli.data_commands",
    function="prepare",
)

CHECK_DATA = Command(
    name="check-data",
    summary="read every image that a run would use, and list what is wrong with the data",
    example="convmesh check-data --config classify --config.data.root=DIR",
    flags=(
        RECIPE,
        Flag(
            "--output",
            "PNG file to draw 16 of the images to, with their boxes (default: check_data.png; none "
            "with --json)",
            metavar="FILE",
            parse=file_path,
            excludes="picture",
        ),
        Flag("--no-picture", "draw nothing", excludes="picture"),
        JSON,
    ),
    takes_overrides=True,
    module="convmesh.cli.data_commands",
    function="check_data",
)

CHECK_MESH = Command(
    name="check-mesh",
    summary="train a few steps on noise, on the mesh of this machine and on one device; compare",
    example="convmesh check-mesh --config demo --config.mesh.spatial=2",
    flags=(RECIPE,),
    takes_overrides=True,
    module="convmesh.cli.recipe_commands",
    function="check_mesh",
)

PLAN = Command(
    name="plan",
    summary="compile a recipe's train step for devices that are not here: memory, communication, "
    "speed",
    example="convmesh plan --config coco --topology h100:8",
    flags=(
        RECIPE,
        Flag(
            "--topology",
            "devices to compile for: v5e:16x16, v5p:4x4x4, h100:8, 2xh100:8 (hosts x GPUs), cpu:8",
            metavar="NAME",
            required=True,
        ),
        Flag("--search", "try several meshes and rank them"),
        Flag("--largest", "find the largest batch that fits; compiles up to ten"),
        Flag(
            "--images",
            "number of training images, for the length of a recipe that counts epochs",
            metavar="N",
            parse=positive_int,
            default=0,
        ),
        Flag(
            "--price",
            "of one device for an hour, for the cost of the run",
            metavar="PRICE",
            parse=positive_float,
            default=0.0,
        ),
        Flag(
            "--picture",
            "draw the plan into a PNG file",
            metavar="FILE",
            parse=file_path,
            default="",
        ),
        Flag("--json", "print one JSON object"),
    ),
    takes_overrides=True,
    module="convmesh.cli.recipe_commands",
    function="plan",
)

BENCH = Command(
    name="bench",
    summary="measure one part of the program",
    example="convmesh bench step --config demo --cpu-devices 8 --config.mesh.spatial=2",
    flags=(
        Flag(
            "part",
            "step: collectives, memory and time of the compiled train step on this mesh; "
            "loop: the training loop compared with its train step alone; "
            "input: images/s from JPEG files to augmented batches, compared with decoding alone; "
            "eval: images/s of an evaluation, compared with its prediction step alone; "
            "scale: images/s and result of one process on one core and of two on two cores; "
            "predict: a trained model in its workdir, as ONNX and as StableHLO, image by image",
            metavar="PART",
            choices=("step", "loop", "input", "eval", "scale", "predict"),
        ),
        dataclasses.replace(RECIPE, required=False, excludes="measured"),
        Flag(
            "--workdir",
            "for predict, instead of a recipe: a workdir written by `convmesh train`",
            metavar="DIR",
            parse=workdir_path,
            excludes="measured",
        ),
        Flag(
            "--steps",
            "length of the runs of loop and scale (default: %(default)s)",
            metavar="N",
            parse=positive_int,
            default=300,
        ),
        Flag(
            "--compare",
            "alternate with PyTorch: the same layers, losses and optimiser (step), or a DataLoader "
            "with torchvision's transforms (input)",
            choices=("torch",),
        ),
        JSON,
    ),
    takes_overrides=True,
    module="convmesh.cli.recipe_commands",
    function="bench",
)

IMPORT_WEIGHTS = Command(
    name="import-weights",
    summary="make a workdir of a file of weights of torch (torchvision, timm, transformers)",
    example="convmesh import-weights --model resnet50 resnet50-11ad3fa6.pth --output runs/resnet50",
    flags=(
        Flag("--model", "name of the model that the weights are of", "NAME", required=True),
        Flag("file", "the weights: .safetensors, .pth, .pt or .bin", "FILE", parse=file_path),
        Flag(
            "--output",
            "folder for the workdir; it must not exist, or be empty",
            metavar="DIR",
            parse=workdir_path,
            required=True,
        ),
        Flag(
            "--classes",
            "the class names in the order of the outputs: a text file of one a line, or a "
            "classes.json (default: those in the file; ImageNet's for 1000 outputs)",
            metavar="NAMES",
            parse=file_path,
            default="",
        ),
        Flag(
            "--partial", "take what fits; initialise randomly what is missing or of another shape"
        ),
    ),
    takes_overrides=True,
    module="convmesh.cli.weight_commands",
    function="import_weights",
)

EXPORT_WEIGHTS = Command(
    name="export-weights",
    summary="write the weights of a checkpoint under torchvision's names, for torch to load",
    example="convmesh export-weights --workdir runs/demo --output demo.safetensors --best",
    flags=(
        TRAINED,
        Flag(
            "--output",
            "the file to write, .safetensors; it must not exist",
            metavar="FILE",
            parse=file_path,
            required=True,
        ),
        *CHECKPOINT,
    ),
    takes_overrides=False,
    module="convmesh.cli.weight_commands",
    function="export_weights",
)

EXPORT = Command(
    name="export",
    summary="write a trained model with its pre- and post-processing as one file, and check it",
    example="convmesh export --workdir runs/demo --format onnx --output demo.onnx --best",
    flags=(
        TRAINED,
        Flag(
            "--format",
            "onnx: for onnxruntime and others; stablehlo: for JAX on CPU, CUDA and TPU",
            choices=("onnx", "stablehlo"),
            required=True,
        ),
        Flag(
            "--output",
            "the file to write; it must not exist",
            metavar="FILE",
            parse=file_path,
            required=True,
        ),
        *CHECKPOINT,
        Flag(
            "--batch",
            "images of a call: a number, or dynamic for any (default: dynamic)",
            metavar="N",
            parse=batch_size,
        ),
        Flag(
            "--precision",
            "arithmetic of the network (default: %(default)s)",
            choices=("float32", "float16"),
            default="float32",
        ),
        Flag(
            "--nms",
            "suppression: inside the file, or none for all candidates of a detector (default: "
            "%(default)s)",
            choices=("inside", "none"),
            default="inside",
        ),
        Flag(
            "--image-size",
            "height and width of the network's input (default: those it was trained with)",
            metavar="HEIGHT,WIDTH",
            parse=sides,
        ),
    ),
    takes_overrides=True,
    module="convmesh.cli.weight_commands",
    function="export",
)

RECIPES = Command(
    name="recipes",
    summary="list the packaged recipes, whose names --config takes",
    example="convmesh recipes",
    flags=(),
    takes_overrides=False,
    module="convmesh.cli.recipe_commands",
    function="recipes",
)

COMMANDS = {
    command.name: command
    for command in (
        *(TRAIN, EVAL, PREDICT, PREPARE, CHECK_DATA),
        *(OVERFIT, CHECK_MESH, PLAN, BENCH, IMPORT_WEIGHTS, EXPORT_WEIGHTS, EXPORT),
        RECIPES,
    )
}
