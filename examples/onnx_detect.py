"""Find objects with an exported detector: python onnx_detect.py model.onnx photos/ --output found

`convmesh export --format onnx` writes the model; pip install onnxruntime numpy pillow
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps


def detect(image):
    """Return boxes [n, 4] (x0, y0, x1, y1 in pixels), labels [n] and scores [n], best first."""
    batch = session.get_inputs()[0].shape[0]  # a number if it is fixed: repeat the image
    pixels = np.asarray(image)[None].repeat(batch if isinstance(batch, int) else 1, axis=0)
    names = ["boxes", "labels", "scores", "valid"]
    boxes, labels, scores, valid = (array[0] for array in session.run(names, {"image": pixels}))
    kept, areas = [], (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.flatnonzero(valid & (scores >= args.threshold))[:100]:  # as `convmesh predict`
        ends, starts = np.minimum(boxes[i], boxes[kept]), np.maximum(boxes[i], boxes[kept])
        both = (ends[:, 2:] - starts[:, :2]).clip(0).prod(axis=1)
        if not (both > iou * (areas[i] + areas[kept] - both)).any():  # of whatever class
            kept.append(i)
    return boxes[kept], labels[kept], scores[kept]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("images", type=Path, help="an image or a folder of images")
parser.add_argument("--output", type=Path, default=Path("found"))
parser.add_argument("--threshold", type=float, default=0.3)
args = parser.parse_args()
try:
    session = onnxruntime.InferenceSession(args.model)
    about = session.get_modelmeta().custom_metadata_map
    classes, iou = json.loads(about["classes"]), float(about["iou_threshold"])
except Exception as error:  # onnxruntime has a class for each of its codes
    raise SystemExit(f"{args.model}: no detector of `convmesh export`: {error}") from None
args.output.mkdir(parents=True, exist_ok=True)
for file in sorted(args.images.iterdir()) if args.images.is_dir() else [args.images]:
    try:
        image = ImageOps.exif_transpose(Image.open(file))
        if image.mode.startswith("I"):  # of 16 bits the upper 8
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        image = image.convert("RGB")
        canvas, font = ImageDraw.Draw(image), ImageFont.load_default(max(12, min(image.size) / 40))
        for box, label, score in zip(*detect(image), strict=True):
            text, width = f"{classes[label]} {score:.2f}", max(2, round(min(image.size) / 300))
            print(f"{file}: {text} at {box.round().astype(int).tolist()}")
            color = ("#d00000", "#0070d0", "#008050", "#b06000", "#7030c0", "#c02080")[label % 6]
            canvas.rectangle(box.tolist(), outline=color, width=width)
            corner = (box[0], max(0, box[1] - 1.4 * font.size))
            canvas.text(corner, text, "white", font, stroke_width=2, stroke_fill=color)
        image.save(args.output / f"{file.name}.png")
    except Exception as error:  # Pillow's decoders raise many
        print(f"{file}: left out: {error}")
