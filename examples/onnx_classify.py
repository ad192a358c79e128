"""Name images with an exported classifier: python onnx_classify.py model.onnx photos/ --output out

`convmesh export --format onnx` writes the model; pip install onnxruntime numpy pillow
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps


def read(file):
    """Return an upright RGB image; of 16 bits the upper 8."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def classify(image):
    """Return the probability of each class, float32 [classes]."""
    batch = session.get_inputs()[0].shape[0]  # a number if it is fixed: repeat the image
    pixels = np.asarray(image)[None].repeat(batch if isinstance(batch, int) else 1, axis=0)
    return session.run(["probabilities"], {"image": pixels})[0][0]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("images", type=Path, help="an image or a folder of images")
parser.add_argument("--output", type=Path, default=Path("named"))
parser.add_argument("--top-k", type=int, default=3)
args = parser.parse_args()
try:
    session = onnxruntime.InferenceSession(args.model)
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    if "probabilities" not in [output.name for output in session.get_outputs()]:
        raise ValueError("it has no output `probabilities`")
except Exception as error:  # onnxruntime has a class for each of its codes
    raise SystemExit(f"{args.model}: no classifier of `convmesh export`: {error}") from None
args.output.mkdir(parents=True, exist_ok=True)
for file in sorted(args.images.iterdir()) if args.images.is_dir() else [args.images]:
    try:
        image = read(file)
        probabilities = classify(image)
        best = probabilities.argsort()[::-1][: args.top_k]
        lines = [f"{classes[i]} {probabilities[i]:.3f}" for i in best]
        print(f"{file}: {', '.join(lines)}")
        font = ImageFont.load_default(max(12, min(image.size) / 20))
        canvas = ImageDraw.Draw(image)
        canvas.rectangle(canvas.textbbox((4, 4), "\n".join(lines), font), fill="black")
        canvas.text((4, 4), "\n".join(lines), "white", font)
        image.save(args.output / f"{file.name}.png")
    except Exception as error:  # Pillow's decoders raise many
        print(f"{file}: left out: {error}")
