"""The recipe's input made by a torch DataLoader with torchvision's transforms, timed.

Run as a process of its own: `python -m convmesh.bench.torch_input WORKERS`, told the config and the
files on standard input; prints images a second.
"""

import json
import sys

import torch
from PIL import Image
from torchvision import transforms

from convmesh.bench.input import images_per_second
from convmesh.config import from_json


class Files(torch.utils.data.Dataset):
    """Endless passes over image files, augmented."""

    def __init__(self, files, config):
        given = config.data.augment
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(tuple(config.data.image_size), tuple(given.crop)),
                transforms.RandomHorizontalFlip(given.flip),
                transforms.PILToTensor(),  # uint8, as ours: the device normalises
            ]
        )
        self.jitter = transforms.ColorJitter(*(given.color * s for s in (0.4, 0.4, 0.7, 0.05)))

    def __len__(self):
        return 2**40

    def __getitem__(self, index):
        image = Image.open(self.files[index % len(self.files)]).convert("RGB")
        return self.jitter(self.transform(image))


def main() -> None:
    """Times the loader that the command line asks for."""
    text, files = json.load(sys.stdin)
    config = from_json(text)
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        Files(files, config), config.train.batch_size, num_workers=int(sys.argv[1])
    )
    print(images_per_second(len(batch) for batch in loader))


if __name__ == "__main__":
    main()
