"""Random changes of brightness, contrast, saturation and hue."""

from __future__ import annotations

import math

import cv2
import numpy as np

# Colour jitter at strength 1: factors from 1 - this to 1 + this, and degrees of the hue.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.7, 18.0
_MAX_CHANGE = np.array([BRIGHTNESS, CONTRAST, SATURATION])
# Linear maps of RGB colours: identity, projection onto the grey axis and its complement, cross
# product with the grey axis, luminance (ITU-R BT.601).
_IDENTITY, _GREY = np.eye(3), np.full((3, 3), 1 / 3)
_CHROMA = _IDENTITY - _GREY
_CROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def jitter_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> None:
    """Change brightness, contrast, saturation and hue of `image` uint8 [h, w, 3] in place."""
    change_colour(image, draw_colour(strength, rng))


def change_colour(image: np.ndarray, matrix: np.ndarray | None) -> None:
    """Apply a map of `draw_colour` to `image` uint8 [h, w, 3] in place."""
    if matrix is not None:
        cv2.transform(image, matrix, image)


def draw_colour(strength: float, rng: np.random.Generator) -> np.ndarray | None:
    """Return a random affine map of RGB colours, float32 [3, 4]; None at strength 0.

    Brightness, contrast, saturation and hue are all linear, so one matrix does them: hue is a
    rotation about the grey axis, saturation a blend with the luminance (ITU-R BT.601), contrast a
    scaling about mid grey.
    """
    # Drawn even at strength 0, so that this setting does not change later draws.
    draws = rng.uniform(-strength, strength, 4)
    if strength == 0:
        return None
    brightness, contrast, saturation = 1 + draws[:3] * _MAX_CHANGE
    angle = math.radians(HUE * draws[3])
    # Rodrigues' formula for a rotation about (1, 1, 1) / sqrt(3).
    hue = _GREY + math.cos(angle) * _CHROMA + math.sin(angle) * _CROSS
    mix = saturation * _IDENTITY + (1 - saturation) * _LUMINANCE
    matrix = np.empty((3, 4), np.float32)
    np.matmul(brightness * contrast * mix, hue, out=matrix[:, :3], casting="same_kind")
    matrix[:, 3] = brightness * (1 - contrast) * 128
    return matrix
