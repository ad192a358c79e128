"""Name images with an exported classifier: python onnx_classify.py model.onnx photos/ --output out

`convmesh export --format onnx` writes the model; pip install onnxruntime numpy pillow
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps


def classify(session, image):
    """Return the probability of each class, float32 [classes]."""
    model_input = session.get_inputs()[0]
    pixels = np.asarray(image)[None]  # uint8 [1, height, width, 3], RGB, of any size
    if isinstance(model_input.shape[0], int):  # exported for a fixed batch: repeat the image
        pixels = np.repeat(pixels, model_input.shape[0], axis=0)
    return session.run(["probabilities"], {model_input.name: pixels})[0][0]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("images", type=Path, help="an image or a folder of images")
parser.add_argument("--output", type=Path, default=Path("named"))
parser.add_argument("--top-k", type=int, default=3)
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model)
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
args.output.mkdir(parents=True, exist_ok=True)
for file in sorted(args.images.iterdir()) if args.images.is_dir() else [args.images]:
    try:
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    except OSError as error:
        print(f"{file}: not read: {error}")
        continue
    probabilities = classify(session, image)
    best = probabilities.argsort()[::-1][: args.top_k]
    lines = [f"{classes[i]} {probabilities[i]:.3f}" for i in best]
    print(f"{file}: {', '.join(lines)}")
    font = ImageFont.load_default(max(12, min(image.size) / 20))
    canvas = ImageDraw.Draw(image)
    canvas.rectangle(canvas.textbbox((4, 4), "\n".join(lines), font), fill="black")
    canvas.text((4, 4), "\n".join(lines), "white", font)
    image.save(args.output / f"{file.name}.png")
