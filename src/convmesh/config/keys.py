"""The table of config keys: default, type, range and meaning of each."""

import difflib
import math
from dataclasses import dataclass
from typing import Any

TASKS = ("detect", "classify")
AUTO_MODEL = "auto"  # the value of model.name that leaves a classifier's model open
DETECT_METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large", "F1"),
)
CLASSIFY_METRICS = ("top1", "top5", "precision", "recall", "F1")
# The layouts of data sets: each value of `data.format`, and the module that reads it, imported on
# first use. Of layouts that fit a folder equally well, `auto` takes the first.
DATA_FORMATS = {
    "tfds": "convmesh.data.formats.tfds_source",
    "coco": "convmesh.data.formats.coco.dataset",
    "voc": "convmesh.data.formats.voc.dataset",
    "yolo": "convmesh.data.formats.yolo.dataset",
    "labelme": "convmesh.data.formats.labelme",
    "folder": "convmesh.data.formats.folder.dataset",
}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, and those in `also`. An open end is excluded."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[int, ...] = ()

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return (above and below) or number in self.also

    def __str__(self) -> str:
        words = [str(number) for number in self.also]
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'above' if self.open_low else 'at least'} {self.low:.12g}")
        if self.high < math.inf:
            ends.append(f"{'below' if self.open_high else 'at most'} {self.high:.12g}")
        return " or ".join([*words, " and ".join(ends)])


def _at_least(low: float, also: tuple[int, ...] = ()) -> Range:
    return Range(low=low, also=also)


POSITIVE = Range(low=0, open_low=True)
FRACTION = Range(low=0, high=1)
FRACTION_BELOW_1 = Range(low=0, high=1, open_high=True)


@dataclass(frozen=True)
class Key:
    """One key of the config.

    kind: type of the value, a name in `values.KINDS`. choices: the only strings allowed. within:
    range of the number, or of every number of a tuple. task: the only task that uses the key.
    """

    default: Any
    kind: str
    doc: str
    choices: tuple[str, ...] = ()
    within: Range | None = None
    task: str = ""


# fmt: off
KEYS: dict[str, Key] = {
    "task": Key("", "str", "the task to train; every recipe sets it", choices=TASKS),
    "precision": Key("auto", "str", "dtype of the convolutions; auto = bfloat16 on TPUs and on "
                     "GPUs that have it, else float32; float32 is exact, without TF32; float64 on "
                     "the CPU only, for equality tests",
                     choices=("auto", "float32", "bfloat16", "float64")),
    "init_from": Key("", "str", "workdir, WORKDIR/checkpoints/STEP, or file of weights, that a new "
                     "run starts from (of a workdir, the newest checkpoint); imagenet, coco = the "
                     "published weights of the model, downloaded once; hf://OWNER/NAME[/FILE] = "
                     "a file on the Hugging Face hub; '' = random initialisation"),

    "model.name": Key("", "str", "name of the model; auto = a classifier is chosen by the images "
                      "and the devices"),
    "model.backbone": Key("", "str", "a classifier, such as resnet50, whose backbone the detector "
                          "has in place of its own; '' = its own", task="detect"),
    "model.norm_group": Key(0, "int", "examples per group of batch norm statistics (ghost batch "
                            "norm; groups need no communication); 0 = the global batch",
                            within=_at_least(0)),
    "model.remat": Key(False, "bool", "recompute the inside of each block in the backward pass: "
                       "less memory, about a third more arithmetic"),
    "model.stochastic_depth": Key(0.0, "float", "probability that an example skips the last block "
                                  "in training; earlier blocks are skipped less often, the first "
                                  "never", within=FRACTION_BELOW_1, task="classify"),
    "model.dropout": Key(0.0, "float", "fraction of the values that the last layer gets that is "
                         "dropped in training", within=FRACTION_BELOW_1, task="classify"),

    "data.format": Key("auto", "str", "layout of the data set; auto = detected from data.root",
                       choices=("auto", *DATA_FORMATS)),
    "data.root": Key("", "str", "folder of the data set"),
    "data.name": Key("", "str", "name of a TFDS data set"),
    "data.train_split": Key("train", "str", "split to train on"),
    "data.eval_split": Key("", "str", "split to evaluate; '' = detected"),
    "data.train_annotations": Key("", "str", "COCO annotation file of the training split, "
                                  "relative to data.root; '' = detected"),
    "data.train_images": Key("", "str", "image folder of the training split, relative to "
                             "data.root; '' = detected"),
    "data.eval_annotations": Key("", "str", "COCO annotation file of the evaluation split, "
                                 "relative to data.root; '' = detected"),
    "data.eval_images": Key("", "str", "image folder of the evaluation split, relative to "
                            "data.root; '' = detected"),
    "data.first": Key(0, "int", "train on this many examples of the training split only: the first "
                      "that hold an object or, for task classify, the first of each class in turn; "
                      "0 = all", within=_at_least(0)),
    "data.val_fraction": Key(0.1, "float", "fraction of the training split held out for "
                             "evaluation if there is no other split", within=FRACTION_BELOW_1),
    "data.classes": Key((), "strs", "class names in the order of their ids; () = read from the "
                        "data"),
    "data.image_size": Key((224, 224), "ints", "(height, width) of the network's input in pixels; "
                           "0,0 = a classifier's is chosen by the images and the devices",
                           within=_at_least(4, also=(0,))),
    "data.sizes": Key((), "floats", "multi-scale training: factors on data.image_size, as in "
                      "(0.75, 1, 1.25). Each training step uses one of these sizes, rounded to "
                      "multiples of 32; the step is compiled once per size. () = data.image_size "
                      "only", within=Range(low=0.25, high=4)),
    "data.size_order": Key("random", "str", "with data.sizes: random = each step has a random "
                           "size; growing = from the smallest to the largest, each for an equal "
                           "part of the run, so that most of it is quick (arXiv 2104.00298)",
                           choices=("random", "growing")),
    "data.balance": Key(0.0, "float", "how far classes with few images are drawn more often: 0 = "
                        "every image alike, 1 = every class alike, between: in proportion to the "
                        "number of images of a class to the power 1 - data.balance",
                        within=FRACTION, task="classify"),
    "data.cache": Key("auto", "auto_bool", "keep the decoded images in memory; auto = if they "
                      "fit into a quarter of what is free on the host"),
    "data.decode": Key("image", "str", "how large JPEGs are decoded for the training of a "
                       "classifier, at 1, 1/2, 1/4 or 1/8 of their size: image = each the same "
                       "every time, so that no crop would have to be enlarged for it; crop = as "
                       "small as its random crop allows, which is quicker, and none is kept in "
                       "memory", choices=("image", "crop"), task="classify"),
    "data.workers": Key(0, "int", "worker processes that read and augment images; 0 = the main "
                        "process does it", within=_at_least(0)),
    "data.on_bad_example": Key("fail", "str", "what to do with an image that cannot be read",
                               choices=("fail", "skip")),
    "data.max_bad_examples": Key(0.1, "float", "largest fraction of the images of a split that "
                                 "on_bad_example may skip, as far as the files show it; more is "
                                 "refused", within=FRACTION),
    "data.on_bad_box": Key("fail", "str", "what to do with a box that is empty or outside its "
                           "image, or of an unknown class; clip refuses a class id that does not "
                           "exist", choices=("fail", "drop", "clip")),
    "data.max_bad_boxes": Key(0.1, "float", "largest fraction of the boxes of a split that "
                              "on_bad_box may drop or clip, without those of classes that "
                              "data.classes leaves out; more is refused", within=FRACTION),
    "data.max_boxes": Key(100, "int", "largest number of boxes per image; further boxes are "
                          "dropped and counted", within=_at_least(1)),
    "data.image_key": Key("", "str", "TFDS feature that holds the image; '' = detected"),
    "data.boxes_key": Key("", "str", "TFDS feature that holds the boxes; '' = detected"),
    "data.label_key": Key("", "str", "TFDS feature that holds the labels; '' = detected"),
    "data.pixel_mean": Key((0.485, 0.456, 0.406), "triple", "mean of red, green and blue that is "
                           "subtracted from the pixels, on a scale of 0 to 1; that of ImageNet, "
                           "which most published weights expect", within=FRACTION),
    "data.pixel_std": Key((0.229, 0.224, 0.225), "triple", "standard deviation of red, green and "
                          "blue by which they are then divided", within=POSITIVE),
    "data.eval_resize": Key(0, "int", "evaluation and prediction resize the shorter side of an "
                            "image to this many pixels and crop the centre of the input's size, as "
                            "torchvision does; 0 = the crop takes all that fits its aspect ratio",
                            within=_at_least(0), task="classify"),
    "data.eval_interpolation": Key("bilinear", "str", "interpolation of data.eval_resize",
                                   choices=("bilinear", "bicubic"), task="classify"),
    "data.eval_size": Key((0, 0), "ints", "(height, width) of the network's input in evaluation "
                          "and prediction, in pixels; 0,0 = data.image_size. Random crops show "
                          "objects larger, so a larger size than in training can help (arXiv "
                          "1906.06423)", within=_at_least(0), task="classify"),
    "data.augment.flip": Key(0.5, "float", "probability of a horizontal flip", within=FRACTION),
    "data.augment.scale": Key((0.5, 1.5), "interval", "random zoom (low, high), relative to the "
                              "image fitted to the input", within=POSITIVE, task="detect"),
    "data.augment.crop": Key((0.35, 1.0), "interval", "random crop (low, high), as a fraction of "
                             "the image's area", within=Range(low=0, high=1, open_low=True),
                             task="classify"),
    "data.augment.color": Key(0.5, "float", "strength of the random changes of brightness, "
                              "contrast, saturation and hue", within=FRACTION),
    "data.augment.vertical_flip": Key(0.0, "float", "probability of a vertical flip",
                                      within=FRACTION),
    "data.augment.quarter_turn": Key(0.0, "float", "probability of a rotation by 90, 180 or 270 "
                                     "degrees, for images without a fixed orientation (cells, "
                                     "aerial images)", within=FRACTION),
    "data.augment.rotate": Key(0.0, "float", "largest angle in degrees of a random rotation to "
                               "either side; boxes become the bounds of the rotated boxes and so "
                               "larger than their objects", within=Range(low=0, high=180)),
    "data.augment.shear": Key(0.0, "float", "largest angle in degrees of a random shear, "
                              "horizontal and vertical; boxes grow as with rotate",
                              within=Range(low=0, high=45)),
    "data.augment.stretch": Key(0.0, "float", "largest random change of the aspect ratio: 0.2 = "
                                "width / height is multiplied or divided by up to 1.2",
                                within=FRACTION, task="detect"),
    "data.augment.mosaic": Key(0.0, "float", "probability that an example is combined with three "
                               "others, one in each quarter of the image; data.max_boxes limits "
                               "the boxes of all four together", within=FRACTION, task="detect"),
    "data.augment.mixup": Key(0.0, "float", "probability that another example is blended in, with "
                              "its boxes or its class", within=FRACTION),
    "data.augment.mixup_alpha": Key(0.2, "float", "the shares of two blended examples are drawn "
                                    "from Beta(alpha, alpha)", within=POSITIVE, task="classify"),
    "data.augment.cutmix": Key(0.0, "float", "probability that a box of another example is pasted "
                               "in, with its share of the class; mixup and cutmix exclude each "
                               "other", within=FRACTION, task="classify"),
    "data.augment.cutmix_alpha": Key(1.0, "float", "the area of the box is drawn from Beta(alpha, "
                                     "alpha)", within=POSITIVE, task="classify"),
    "data.augment.last_plain": Key(0.3, "float", "last fraction of the run, in which mosaic, mixup "
                                   "and cutmix are off", within=FRACTION),
    "data.augment.policy": Key("", "str", "operations from a list, such as posterize or shear, "
                               "with torchvision's ranges: randaugment = data.augment.operations "
                               "of them at data.augment.magnitude, trivialaugment = one at a "
                               "random magnitude; '' = none",
                               choices=("", "randaugment", "trivialaugment"), task="classify"),
    "data.augment.operations": Key(2, "int", "operations of randaugment", within=_at_least(1),
                                   task="classify"),
    "data.augment.magnitude": Key(9, "int", "magnitude of randaugment's operations",
                                  within=Range(low=0, high=30), task="classify"),
    "data.augment.erase": Key(0.0, "float", "probability that a random rectangle, of 2 to 33% of "
                              "the area, is replaced by data.pixel_mean", within=FRACTION,
                              task="classify"),

    "train.batch_size": Key(16, "int", "images per step over all devices (global batch size); 0 "
                            "= a classifier's is chosen by the images and the devices",
                            within=_at_least(0)),
    "train.steps": Key(0, "int", "length of the run in steps; if this and train.epochs are 0, it "
                       "is chosen from the number of images", within=Range(low=0, high=2**31 - 1)),
    "train.epochs": Key(0.0, "float", "length of the run in passes over the data, instead of "
                        "train.steps", within=_at_least(0)),
    "train.seed": Key(0, "int", "seed of the initial weights, the data order and the augmentation",
                      within=Range(low=0, high=2**31 - 1)),
    "train.log_every_steps": Key(20, "int", "steps between two log lines", within=_at_least(1)),
    "train.accumulate": Key(1, "int", "gradient accumulation: micro-batches of equal size per "
                            "step, whose gradients are summed; batch norm statistics are taken "
                            "over one micro-batch", within=_at_least(1)),
    "train.max_nonfinite_steps": Key(10, "int", "steps in a row that may have a non-finite loss or "
                                     "gradient; more than these end the run; 0 = no limit",
                                     within=_at_least(0)),
    "train.frozen_stages": Key(0, "int", "freeze the stem and this many stages of the backbone: "
                               "their parameters are not updated, and their batch norms use their "
                               "running statistics and keep them; 0 = nothing is frozen",
                               within=_at_least(0)),
    "train.frozen_norms": Key("false", "auto_bool", "freeze all batch norms of a detector's "
                              "backbone, or of a classifier: they use the running statistics of "
                              "the loaded weights and keep them, and their parameters are not "
                              "updated; auto = with init_from, if fewer than 16 examples are "
                              "normalised together"),
    "train.patience": Key(0, "int", "early stopping: the run ends after this many evaluations in a "
                          "row without a new best of checkpoint.best_metric; 0 = off",
                          within=_at_least(0)),

    "loss.label_smoothing": Key(0.0, "float", "fraction of the target that is spread evenly over "
                                "all classes", within=FRACTION_BELOW_1, task="classify"),
    "loss.balance": Key(0.0, "float", "how far examples of classes with few images weigh more in "
                        "the loss: 0 = all alike, 1 = in inverse proportion to the number of "
                        "images, between: to that number to the power -loss.balance",
                        within=FRACTION, task="classify"),
    "loss.class_weight": Key(1.0, "float", "weight of the classification loss; short runs whose "
                             "classes are hard to tell apart learn faster with 3 to 5",
                             within=POSITIVE, task="detect"),
    "loss.distribution_weight": Key(0.5, "float", "weight of the distribution focal loss of the "
                                    "box distances; 0 = boxes are trained by the IoU loss only",
                                    within=_at_least(0), task="detect"),
    "loss.box_confidence": Key(True, "bool", "train a box confidence and combine it with the class "
                               "confidence to the score; false = the score is the class "
                               "confidence", task="detect"),
    "loss.assignment": Key("aligned", "str", "how points are assigned to a box: aligned = by the "
                           "current predictions, centres = those around the box centre",
                           choices=("aligned", "centres"), task="detect"),

    "optimizer.name": Key("adamw", "str", "the optimiser; lars and lamb are sgd and adamw for very "
                          "large batches", choices=("adamw", "sgd", "lars", "lamb")),
    "optimizer.learning_rate": Key(1e-3, "float", "peak learning rate", within=POSITIVE),
    "optimizer.momentum": Key(0.9, "float", "momentum of sgd and lars",
                              within=FRACTION_BELOW_1),
    "optimizer.nesterov": Key(False, "bool", "use Nesterov momentum; sgd and lars only"),
    "optimizer.weight_decay": Key(0.05, "float", "weight decay; 0 = off", within=_at_least(0)),
    "optimizer.trust": Key(0.001, "float", "trust coefficient of lars", within=POSITIVE),
    "optimizer.clip_norm": Key(10.0, "float", "largest global norm of the gradient; 0 = off",
                               within=_at_least(0)),
    "optimizer.backbone_rate": Key(1.0, "float", "learning rate of the backbone, relative to that "
                                   "of the rest", within=POSITIVE),
    "optimizer.layer_decay": Key(1.0, "float", "learning rate of each stage of the backbone, "
                                 "relative to that of the next stage; the stem has the smallest",
                                 within=Range(low=0, high=1, open_low=True)),

    "schedule.name": Key("cosine", "str", "learning rate after the warm-up; flat_cosine holds the "
                         "peak before it decays, steps multiplies the rate by schedule.factor at "
                         "each of schedule.milestones",
                         choices=("cosine", "flat_cosine", "constant", "steps")),
    "schedule.milestones": Key((1 / 3, 2 / 3, 8 / 9), "floats", "fractions of the run at which "
                               "schedule.name steps changes the rate", within=FRACTION),
    "schedule.factor": Key(0.1, "float", "by which schedule.name steps multiplies the rate",
                           within=Range(low=0, high=1, open_low=True)),
    "schedule.flat": Key(0.5, "float", "fraction of the run for which flat_cosine holds the peak",
                         within=FRACTION),
    "schedule.floor": Key(0.01, "float", "learning rate at the end of a cosine, relative to the "
                          "peak", within=FRACTION),
    "schedule.warmup_steps": Key(-1, "int", "steps of linear warm-up; -1 = 5% of the run",
                                 within=_at_least(0, also=(-1,))),

    "ema.decay": Key(0.998, "float", "decay of the moving average of the weights (EMA); 0 = off; "
                     "-1 = by the length of the run: 0.998 up to 10,000 steps, 0.9998 from 100,000",
                     within=Range(low=0, high=1, open_high=True, also=(-1,))),

    "mesh.data": Key(-1, "int", "devices along the data axis (examples); -1 = all that are left",
                     within=_at_least(1, also=(-1,))),
    "mesh.spatial": Key(1, "int", "devices along the spatial axis (image rows); -1 = all that are "
                        "left", within=_at_least(1, also=(-1,))),
    "mesh.model": Key(1, "int", "devices along the model axis (channels); -1 = all that are left",
                      within=_at_least(1, also=(-1,))),
    "mesh.fsdp": Key(False, "bool", "shard parameters, optimiser state and EMA over mesh.data too"),

    "eval.every_steps": Key(0, "int", "steps between two evaluations; 0 = once, at the end; -1 = a "
                            "tenth of the run", within=_at_least(0, also=(-1,))),
    "eval.batch_size": Key(0, "int", "images per evaluation step; 0 = train.batch_size",
                           within=_at_least(0)),

    "checkpoint.every_steps": Key(0, "int", "steps between two checkpoints; 0 = with every "
                                  "evaluation", within=_at_least(0)),
    "checkpoint.every_minutes": Key(10.0, "float", "minutes after the last checkpoint at which "
                                    "another is saved, besides those of checkpoint.every_steps and "
                                    "of evaluations; 0 = none", within=_at_least(0)),
    "checkpoint.keep": Key(2, "int", "number of newest checkpoints to keep, besides the best",
                           within=_at_least(1)),
    "checkpoint.best_metric": Key("", "str", "metric whose highest value marks the best "
                                  "checkpoint; '' = AP or top1",
                                  choices=("", *dict.fromkeys(DETECT_METRICS + CLASSIFY_METRICS))),
}
# fmt: on


def unknown_key(name: str) -> str:
    """The error message for a name that is not in `KEYS`; it names the nearest key."""
    members = [key for key in KEYS if key.startswith(name + ".")]
    if members:
        return f"{name}: a group of keys, not a value; set one of {', '.join(members)}"
    group, _, leaf = name.rpartition(".")
    siblings = [_leaf(key) for key in KEYS if key.rpartition(".")[0] == group]
    if group and siblings:
        near = _nearest_in_group(group, leaf, siblings)
        if near is None:
            return f"{name}: no such key; {group} has {', '.join(siblings)}"
    else:
        near = _nearest(name, leaf)
        if near is None:
            return f"{name}: no such key; `convmesh train --help-config` lists all keys"
    return f"{name}: no such key; did you mean {near}?"


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _first_by_leaf() -> dict[str, str]:
    """{last part of a key: the first key that ends with it}."""
    found: dict[str, str] = {}
    for key in KEYS:
        found.setdefault(_leaf(key), key)
    return found


def _nearest_in_group(group: str, leaf: str, siblings: list[str]) -> str | None:
    close = difflib.get_close_matches(leaf, siblings, 1)
    return f"{group}.{close[0]}" if close else _first_by_leaf().get(leaf)


def _nearest(name: str, leaf: str) -> str | None:
    close = difflib.get_close_matches(name, KEYS, 1)
    if close:
        return close[0]
    by_leaf = _first_by_leaf()
    close = difflib.get_close_matches(leaf, by_leaf, 1)
    return by_leaf[close[0]] if close else None
