"""Find objects with an exported detector: python onnx_detect.py model.onnx photos/ --output found

`convmesh export --format onnx` writes the model; pip install onnxruntime numpy pillow
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

COLORS = ("#d00000", "#0070d0", "#008050", "#b06000", "#7030c0", "#c02080")


def detect(session, image):
    """Return boxes [n, 4] (x0, y0, x1, y1 in pixels), labels [n] and scores [n], best first."""
    model_input = session.get_inputs()[0]
    pixels = np.asarray(image)[None]  # uint8 [1, height, width, 3], RGB, of any size
    if isinstance(model_input.shape[0], int):  # exported for a fixed batch: repeat the image
        pixels = np.repeat(pixels, model_input.shape[0], axis=0)
    names = ["boxes", "labels", "scores", "valid"]
    *found, valid = (array[0] for array in session.run(names, {model_input.name: pixels}))
    return [array[valid] for array in found]


def draw(canvas, box, text, color, size):
    """Draw a box and its text."""
    font = ImageFont.load_default(max(12, size / 40))
    canvas.rectangle(box.tolist(), outline=color, width=max(2, round(size / 300)))
    corner = (box[0], max(0, box[1] - 1.4 * font.size))
    canvas.rectangle(canvas.textbbox(corner, text, font), fill=color, outline=color, width=2)
    canvas.text(corner, text, "white", font)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("images", type=Path, help="an image or a folder of images")
parser.add_argument("--output", type=Path, default=Path("found"))
parser.add_argument("--threshold", type=float, default=0.3)
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
    found, canvas = detect(session, image), ImageDraw.Draw(image)
    for box, label, score in zip(*found, strict=True):
        if score >= args.threshold:
            text = f"{classes[label]} {score:.2f}"
            print(f"{file}: {text} at {box.round().astype(int).tolist()}")
            draw(canvas, box, text, COLORS[label % len(COLORS)], min(image.size))
    image.save(args.output / f"{file.name}.png")
