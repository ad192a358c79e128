"""Trains torchvision's ResNet-18 on folders of classes: what convmesh is compared with.

    python tools/torch_classifier.py DIR --size 96 --epochs 30 --seed 0

DIR holds train/CLASS/* and validation/CLASS/*. The recipe is the one of torchvision's reference
script for its second weights, scaled to a small set: SGD with momentum, a cosine after a warm-up,
label smoothing, mixup and cutmix, TrivialAugment, random erasing, EMA of the weights, and no weight
decay of norms. `--light` replaces mixing, TrivialAugment and erasing by changes of colour, which
suits runs of minutes better. Images are decoded once and kept. Needs torch and torchvision; prints
a line every five epochs, with the accuracy of the averaged weights on the validation images, and
the wall and CPU seconds since its start, reading and evaluation included.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2


class Kept(torch.utils.data.Dataset):
    """The images of a split, decoded, and their classes."""

    def __init__(self, root: Path, transform):
        """Reads ROOT/CLASS/*."""
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.transform, self.items = transform, []
        for label, name in enumerate(self.classes):
            for path in sorted((root / name).glob("*.jpg")):
                self.items.append((Image.open(path).convert("RGB"), label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        image, label = self.items[index]
        return self.transform(image), label


def transforms(size: int, low: float, light: bool) -> tuple[v2.Compose, v2.Compose]:
    """Of training and of evaluation, as in torchvision's reference script, or with less."""
    end = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    train = [v2.RandomResizedCrop(size, scale=(low, 1.0)), v2.RandomHorizontalFlip()]
    if light:
        train += [v2.ColorJitter(0.4, 0.4, 0.4), *end]
    else:
        train += [v2.TrivialAugmentWide(), *end, v2.RandomErasing(0.1)]
    evaluate = [v2.Resize(round(size * 232 / 224)), v2.CenterCrop(size), *end]
    return v2.Compose(train), v2.Compose(evaluate)


def groups(model: nn.Module, decay: float) -> list[dict]:
    """Parameters with and without weight decay."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    norms = {id(parameter) for layer in layers for parameter in layer.parameters()}

    plain = [p for p in model.parameters() if id(p) not in norms]
    rest = [p for p in model.parameters() if id(p) in norms]
    return [{"params": plain, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def accuracy(model: nn.Module, loader) -> float:
    """Top-1 over a split."""
    model.eval()
    right = total = 0
    for images, labels in loader:
        right += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--low", type=float, default=0.35, help="least part of the area in a crop")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="their CPU time is not counted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    of_training, of_evaluation = transforms(args.size, args.low, args.light)
    train = Kept(args.root / "train", of_training)
    validation = Kept(args.root / "validation", of_evaluation)
    classes = len(train.classes)
    mixing = [v2.MixUp(alpha=0.2, num_classes=classes), v2.CutMix(num_classes=classes)]
    mix = v2.Identity() if args.light else v2.RandomChoice(mixing)

    loader = torch.utils.data.DataLoader(
        train,
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        collate_fn=lambda items: mix(*torch.utils.data.default_collate(items)),
    )
    of_validation = torch.utils.data.DataLoader(validation, 64)
    model = resnet18(num_classes=classes).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    optimizer = torch.optim.SGD(groups(model, args.decay), args.rate, 0.9, nesterov=True)
    steps = args.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.rate, steps, pct_start=0.05, cycle_momentum=False, final_div_factor=1e3
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(1, args.epochs + 1):
        model.train()
        for images, labels in loader:
            images = images.to(memory_format=torch.channels_last)
            loss = loss_of(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        if epoch % 5 == 0 or epoch in (1, args.epochs):
            top1 = accuracy(average, of_validation)
            took = f"{time.perf_counter() - began:.0f} s, CPU {time.process_time():.0f} s"
            print(f"epoch {epoch}: loss {loss:.3f}, top1 {top1:.4f}, {took}", flush=True)


if __name__ == "__main__":
    main()
