"""A program that runs training steps in PyTorch, one for each line of standard input.

`bench.torch_baseline` starts it, for `convmesh bench step --compare torch`. It uses what PyTorch
users would: torch's layers, channels last, fused optimizers, and on a GPU `torch.compile` and
autocast. Architectures, losses and optimizers are those of `convmesh.models`, `convmesh.tasks` and
`convmesh.steps.optimizer`; equal parameter counts show that no layer is missing.
"""

import os
import pickle
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from convmesh.bench.torch_baseline import MODELS, DetectorSizes, ResNetSizes
from convmesh.config import from_json
from convmesh.distributed.batch import Batch
from convmesh.geometry import FINEST_STRIDE, STRIDES, grid_points
from convmesh.models.detector import BINS
from convmesh.steps.noise import noise_batch
from convmesh.tasks.assignment import ALIGNMENT_POWER, POINTS_PER_BOX
from convmesh.tasks.detect import BOX_WEIGHT, Detect
from convmesh.tasks.registry import make_task


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        activation: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        parts = [nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False), nn.BatchNorm2d(c_out)]
        super().__init__(*parts, *([activation(inplace=True)] if activation else []))


class Residual(nn.Module):
    """`branch` plus the identity, or plus a 1x1 convolution if shapes change."""

    def __init__(
        self,
        branch: nn.Module,
        c_in: int,
        c_out: int,
        stride: int,
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        self.branch, self.activation = branch, activation(inplace=True)
        same = c_in == c_out and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(c_in, c_out, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, c_in, rows, columns] -> [batch, c_out, ...]."""
        return self.activation(self.branch(x) + self.shortcut(x))


def basic(c_in: int, c: int, stride: int, activation: type[nn.Module] = nn.ReLU) -> Residual:
    """ResNet's basic block."""
    first = ConvNorm(c_in, c, 3, stride, activation=activation)
    branch = nn.Sequential(first, ConvNorm(c, c, activation=None))
    return Residual(branch, c_in, c, stride, activation)


def bottleneck(c_in: int, c: int, stride: int) -> Residual:
    """ResNet's bottleneck block, the stride in its 3x3."""
    branch = nn.Sequential(
        ConvNorm(c_in, c, 1, activation=nn.ReLU),
        ConvNorm(c, c, 3, stride, activation=nn.ReLU),
        ConvNorm(c, 4 * c, 1, activation=None),
    )
    return Residual(branch, c_in, 4 * c, stride, nn.ReLU)


class ResNet(nn.Sequential):
    """As `convmesh.models.resnet.ResNet`."""

    def __init__(self, classes: int, sizes: ResNetSizes) -> None:
        block, growth = (bottleneck, 4) if sizes.bottleneck else (basic, 1)
        parts = [ConvNorm(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for stage, count in enumerate(sizes.blocks):
            for i in range(count):
                c = 64 * 2**stage
                parts.append(block(width, c, 2 if stage and not i else 1))
                width = growth * c
        head = nn.Linear(width, classes)
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class Detector(nn.Module):
    """As `convmesh.models.detector.Detector`."""

    def __init__(self, classes: int, sizes: DetectorSizes) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        c_in = 3
        for i, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            down = ConvNorm(c_in, width, 6, 4, 1) if i == 0 else ConvNorm(c_in, width, 3, 2)
            blocks = [basic(width, width, 1, nn.SiLU) for _ in range(depth)]
            self.stages.append(nn.Sequential(down, *blocks))
            c_in = width
        f, levels = sizes.features, len(STRIDES)
        self.lateral = nn.ModuleList(ConvNorm(width, f, 1) for width in sizes.widths[1:])
        self.top_down = nn.ModuleList(ConvNorm(2 * f, f) for _ in range(levels - 1))
        self.down = nn.ModuleList(ConvNorm(f, f, 3, 2) for _ in range(levels - 1))
        self.bottom_up = nn.ModuleList(ConvNorm(2 * f, f) for _ in range(levels - 1))
        conv = lambda: nn.Conv2d(f, f, 3, padding=1, bias=False)  # noqa: E731
        norms = lambda: nn.ModuleList(nn.BatchNorm2d(f) for _ in range(levels))  # noqa: E731
        self.convs = nn.ModuleList(nn.ModuleList(conv() for _ in range(2)) for _ in range(2))
        self.norms = nn.ModuleList(nn.ModuleList(norms() for _ in range(2)) for _ in range(2))
        self.to_class, self.to_confidence = nn.Conv2d(f, classes, 1), nn.Conv2d(f, 1, 1)
        self.to_distance = nn.Conv2d(f, 4 * BINS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class, distance and confidence logits of all points."""
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i:
                levels.append(x)
        levels = [lateral(x) for lateral, x in zip(self.lateral, levels, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            up = F.interpolate(levels[i + 1], scale_factor=2)
            up = up[:, :, : levels[i].shape[2], : levels[i].shape[3]]
            levels[i] = self.top_down[i](torch.cat([levels[i], up], 1))
        for i in range(1, len(levels)):
            both = torch.cat([levels[i], self.down[i - 1](levels[i - 1])], 1)
            levels[i] = self.bottom_up[i - 1](both)
        boxes, classes = (self._branch(i, levels) for i in (0, 1))
        distances = self._points(self.to_distance, boxes)
        return (
            self._points(self.to_class, classes),
            distances.reshape(*distances.shape[:2], 4, BINS),
            self._points(self.to_confidence, boxes)[..., 0],
        )

    def _branch(self, which: int, levels: list[Tensor]) -> list[Tensor]:
        outputs = []
        for level, x in enumerate(levels):
            for conv, norms in zip(self.convs[which], self.norms[which], strict=True):
                x = F.silu(norms[level](conv(x)), inplace=True)
            outputs.append(x)
        return outputs

    def _points(self, layer: nn.Module, levels: list[Tensor]) -> Tensor:
        flat = [layer(x).permute(0, 2, 3, 1).flatten(1, 2) for x in levels]
        return torch.cat(flat, 1).float()


class DetectionLoss:
    """As `convmesh.tasks.detect`, a batch at a time."""

    def __init__(self, task: Detect, device: torch.device) -> None:
        self.task = task
        points, strides = grid_points(task.image_size)
        self.points = torch.from_numpy(points).to(device)
        self.strides = torch.from_numpy(strides).to(device)
        self.bins = torch.arange(BINS, device=device, dtype=torch.float32)

    def boxes(self, logits: Tensor) -> Tensor:
        """[batch, points, 4, BINS] -> boxes [batch, points, 4]."""
        distances = (logits.softmax(-1) * self.bins).sum(-1) * self.strides[:, None]
        return torch.cat([self.points - distances[..., :2], self.points + distances[..., 2:]], -1)

    @torch.no_grad()
    def assign(
        self, predicted: Tensor, class_logits: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each point [batch, points]: box, positive, target, ignored.

        As `convmesh.tasks.assignment.assign`.
        """
        boxes, labels = batch.boxes, batch.labels.long()  # [b, m, 4], [b, m]
        real = batch.valid & ~batch.crowd
        centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
        half = half.clamp(min=FINEST_STRIDE / 2)
        low, high = (centre - half)[:, :, None], (centre + half)[:, :, None]
        candidate = ((self.points >= low) & (self.points < high)).all(-1) & real[..., None]
        overlap = _iou(boxes[:, :, None], predicted[:, None])[0] * candidate
        score = F.logsigmoid(class_logits).transpose(1, 2)
        score = score.gather(1, labels[..., None].expand(-1, -1, score.shape[2]))
        metric = score + ALIGNMENT_POWER * overlap.clamp(min=1e-9).log()
        metric = metric.masked_fill(~candidate, -torch.inf)
        best, index = metric.topk(POINTS_PER_BOX, dim=-1)
        taken = torch.zeros_like(candidate).scatter_(2, index, best > -torch.inf)
        box = overlap.masked_fill(~taken, -1).argmax(1)
        rows = torch.arange(boxes.shape[1], device=boxes.device)[None, :, None]
        kept = taken & (box[:, None] == rows)
        metric = metric.masked_fill(~kept, -torch.inf)
        top = metric.amax(-1, keepdim=True)
        relative = (metric - top.nan_to_num(neginf=0.0)).exp()
        quality = relative * (overlap * kept).amax(-1, keepdim=True)
        ignored = (
            (self.points >= boxes[:, :, None, :2]) & (self.points < boxes[:, :, None, 2:])
        ).all(-1)
        ignored = (ignored & (batch.valid & batch.crowd)[..., None]).any(1) & ~kept.any(1)
        return box, kept.any(1), (quality * kept).sum(1), ignored

    def __call__(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """The loss of a batch, divided by the sum of its targets."""
        class_logits, distance_logits, confidence_logits = outputs
        predicted = self.boxes(distance_logits)
        box, positive, target, ignored = self.assign(predicted, class_logits, batch)
        weight = (~ignored).float()
        label = batch.labels.long().gather(1, box)
        class_target = F.one_hot(label, self.task.classes) * target[..., None]
        class_loss = (_quality_focal(class_logits, class_target).sum(-1) * weight).sum()
        confidence_loss = (_quality_focal(confidence_logits, target) * weight).sum()
        truth = batch.boxes.gather(1, box[..., None].expand(-1, -1, 4))
        truth = torch.where(positive[..., None], truth, predicted.detach())
        box_loss = ((1 - _iou(predicted, truth)[1]) * target).sum()
        sides = [self.points - truth[..., :2], truth[..., 2:] - self.points]
        distances = (torch.cat(sides, -1) / self.strides[:, None]).clamp(0, BINS - 1)
        weights = (1 - (distances[..., None] - self.bins).abs()).clamp(min=0)
        bins_loss = -(weights * distance_logits.log_softmax(-1)).sum(-1).mean(-1)
        loss = (
            self.task.class_weight * class_loss
            + self.task.box_confidence * confidence_loss
            + BOX_WEIGHT * box_loss
            + self.task.distribution_weight * (bins_loss * target).sum()
        )
        return loss / target.sum().clamp(min=1)


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes [..., 4]."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    both = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both
    iou = both / union.clamp(min=1e-9)
    return iou, iou - (hull - union) / hull.clamp(min=1e-9)


def _quality_focal(logits: Tensor, targets: Tensor) -> Tensor:
    error = targets - logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return error * error * cross_entropy


def make_model(name: str, classes: int) -> nn.Module:
    """The model of that name in `MODELS`."""
    sizes = MODELS[name]
    return ResNet(classes, sizes) if isinstance(sizes, ResNetSizes) else Detector(classes, sizes)


def make_optimizer(config: ConfigDict, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW or SGD, fused; norms and biases are not decayed."""
    options = config.optimizer
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.name == "adamw":
        return torch.optim.AdamW(groups, options.learning_rate, fused=True)
    return torch.optim.SGD(
        groups,
        options.learning_rate,
        momentum=options.momentum,
        nesterov=options.nesterov,
        fused=True,
    )


class Step:
    """A training step of a recipe: forward, loss, backward, clip, optimizer, running average."""

    def __init__(self, config: ConfigDict, classes: int, on_gpu: bool) -> None:
        """Model, losses and optimizer of `config`, and a batch of noise."""
        self.device = torch.device("cuda" if on_gpu else "cpu")
        if not on_gpu:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.bfloat16 = config.precision == "bfloat16"
        model = make_model(config.model.name, classes).to(self.device)
        model = model.to(memory_format=torch.channels_last).train()
        self.parameters = list(model.parameters())
        self.optimizer = make_optimizer(config, self.parameters)
        self.clip_norm = config.optimizer.clip_norm
        self.smoothing = config.loss.label_smoothing
        averaged = self.parameters if config.ema.decay else []
        self.average = [p.detach().clone() for p in averaged]
        self.model = torch.compile(model) if on_gpu else model
        task = make_task(config, classes)
        self.loss = DetectionLoss(task, self.device) if config.task == "detect" else None
        self.mean = 255 * torch.tensor(config.data.pixel_mean, device=self.device)[:, None, None]
        self.deviation = (
            255 * torch.tensor(config.data.pixel_std, device=self.device)[:, None, None]
        )
        size, boxes = tuple(config.data.image_size), config.data.max_boxes
        batch = noise_batch(task, size, config.train.batch_size, boxes)
        self.batch = batch.map(lambda _, array: torch.from_numpy(array).to(self.device))

    def __call__(self) -> None:
        """Runs one step and waits until it is done."""
        images = (self.batch.image.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = self.model(images)
        if self.loss:
            loss = self.loss(tuple(part.float() for part in outputs), self.batch)
        else:
            labels = self.batch.label.long()
            loss = F.cross_entropy(outputs.float(), labels, label_smoothing=self.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1e-3)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Reads the recipe, then runs and times a step for each line."""
    length = int.from_bytes(sys.stdin.buffer.read(8), "little")
    config, classes, on_gpu = pickle.loads(sys.stdin.buffer.read(length))
    if on_gpu and not torch.cuda.is_available():
        reply(f"this torch ({torch.__version__}) finds no GPU")
        return
    step = Step(from_json(config), len(classes), on_gpu)
    reply(f"torch {torch.__version__}")
    reply(sum(p.numel() for p in step.parameters))
    while sys.stdin.buffer.readline():
        before = time.perf_counter()
        step()
        reply(time.perf_counter() - before)


def reply(value: Any) -> None:
    """Writes one line for the process that started this one."""
    print(value, flush=True)


if __name__ == "__main__":
    main()
