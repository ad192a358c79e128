"""Times a torch DataLoader with torchvision's crop, mirror and colour on the recipe's images.

A program: `python -m convmesh.bench.torch_input WORKERS` reads the config and the files from
standard input and prints images per second.
"""

import json
import sys

import torch
from ml_collections import ConfigDict
from PIL import Image
from torchvision import transforms

from convmesh.bench.input import images_per_second
from convmesh.config import from_json


class Files(torch.utils.data.Dataset):
    """Endless passes over image files, augmented."""

    def __init__(self, files: list[str], config: ConfigDict) -> None:
        augment = config.data.augment
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(tuple(config.data.image_size), tuple(augment.crop)),
                transforms.RandomHorizontalFlip(augment.flip),
                transforms.PILToTensor(),  # uint8, as ours: the device normalises
            ]
        )
        self.jitter = transforms.ColorJitter(*(augment.color * s for s in (0.4, 0.4, 0.7, 0.05)))

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.files[index % len(self.files)]).convert("RGB")
        return self.jitter(self.transform(image))


def main() -> None:
    """Times the loader with the number of workers given on the command line."""
    text, files = json.load(sys.stdin)
    config = from_json(text)
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        Files(files, config), config.train.batch_size, num_workers=int(sys.argv[1])
    )
    print(images_per_second(len(batch) for batch in loader))


if __name__ == "__main__":
    main()
