"""The same things in plain numpy, one loop at a time: what the ops have to give."""

import numpy as np


def windows(x, extent, stride, padding, dilation, fill):
    """Each window's place in the result and its values: (row, column), [batch, k, k, channels]."""
    stride, dilation = np.broadcast_to(stride, 2), np.broadcast_to(dilation, 2)
    padded = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)), constant_values=fill)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, extent, strict=True)]
    for row in range((padded.shape[1] - reach[0]) // stride[0] + 1):
        for column in range((padded.shape[2] - reach[1]) // stride[1] + 1):
            y, x = row * stride[0], column * stride[1]
            taps = slice(y, y + reach[0], dilation[0]), slice(x, x + reach[1], dilation[1])
            yield (row, column), padded[(slice(None), *taps)]


def conv2d(x, kernel, stride=1, padding=(0, 0), dilation=1, groups=1):
    """Cross-correlation of [batch, rows, columns, c_in] with [kh, kw, c_in / groups, c_out]."""
    c_in, c_out = kernel.shape[2], kernel.shape[3] // groups
    found = {}
    for place, window in windows(x, kernel.shape[:2], stride, padding, dilation, 0):
        parts = []
        for g in range(groups):
            own = window[..., g * c_in : (g + 1) * c_in]
            parts.append(np.einsum("byxi,yxio->bo", own, kernel[..., g * c_out : (g + 1) * c_out]))
        found[place] = np.concatenate(parts, axis=-1)
    return image(found)


def pool(x, window, stride, padding, reduce, fill):
    """`reduce` (np.max, np.mean) over each window."""
    given = (x, (window, window), stride, (padding, padding), 1, fill)
    return image({place: reduce(values, axis=(1, 2)) for place, values in windows(*given)})


def image(found):
    """[batch, rows, columns, channels] from {(row, column): [batch, channels]}."""
    rows, columns = (1 + max(place[i] for place in found) for i in (0, 1))
    return np.stack(
        [np.stack([found[row, column] for column in range(columns)], 1) for row in range(rows)], 1
    )


def iou(a, b):
    """Intersection over union of two boxes, x0 y0 x1 y1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def greedy_suppression(boxes, labels, valid, threshold):
    """Which boxes, best first, are kept: a box goes if it overlaps one that was kept before."""
    kept = []
    for i in range(len(boxes)):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if valid[i] and all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)
