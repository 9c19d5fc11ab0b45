"""Looks of an image that can be encoded once and cached: flips, quarter turns, changed light.

Variant 0 is the image as it is; variant v > 0 is a function of the image's hash and v alone, so every seed, epoch and
process shares one cached embedding of it. Boxes and points are drawn freely on top: they never meet the encoder.
"""

import zlib
from dataclasses import dataclass

import numpy as np

# Factors of brightness, contrast and gamma; light changes that leave a defect a defect.
_LIGHT = {"brightness": 0.2, "contrast": 0.2, "gamma": 0.25}


@dataclass(frozen=True)
class Variant:
    """One look of an image.

    Attributes:
        turns: quarter turns anticlockwise, then
        mirrored: left and right exchanged.
        brightness, contrast, gamma: factors; 1 leaves the light alone.
    """

    turns: int = 0
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0

    def turn(self, array: np.ndarray) -> np.ndarray:
        """An (H, W, ...) image or mask, turned and mirrored."""
        array = np.rot90(array, self.turns)
        return array[:, ::-1] if self.mirrored else array

    def look(self, image: np.ndarray) -> np.ndarray:
        """An (H, W, 3) uint8 image, turned, mirrored and in changed light; contiguous uint8."""
        turned = self.turn(image)
        if (self.brightness, self.contrast, self.gamma) == (1.0, 1.0, 1.0):
            return np.ascontiguousarray(turned)
        # One value in, one value out: a table of 256 instead of arithmetic on every pixel.
        levels = (np.arange(256) / 255) ** self.gamma * self.brightness
        middle = float(levels[image].mean())
        table = (255 * ((levels - middle) * self.contrast + middle)).clip(0, 255).round().astype(np.uint8)
        return np.ascontiguousarray(table[turned])


def variant_of(image_hash: str, number: int) -> Variant:
    """Variant `number` of the image with this `image_hash`.

    The first eight go through the eight turns and mirrors in an order of the image's own, so K of them differ as much
    as K can.
    """
    if number == 0:
        return Variant()
    order = np.random.default_rng([zlib.crc32(image_hash.encode()), 0]).permutation(7) + 1
    pose = int(order[(number - 1) % 8]) if (number - 1) % 8 < 7 else 0
    draw = np.random.default_rng([zlib.crc32(image_hash.encode()), 1, number])
    light = {name: float(np.exp(draw.uniform(-spread, spread))) for name, spread in _LIGHT.items()}
    return Variant(turns=pose % 4, mirrored=pose >= 4, **light)


def variant_key(image_hash: str, number: int) -> str:
    """The cache's key of a variant; that of variant 0 is the image's hash."""
    return image_hash if number == 0 else f"{image_hash}-v1.{number}"
