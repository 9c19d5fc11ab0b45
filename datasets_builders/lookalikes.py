"""Photographs that show the same thing: twice the same pixels, or one piece taken again.

Across splits such pairs are leaks: a test on them measures memory.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

# A hash of 16 x 16 brightness steps: another exposure, size or compression changes few of them, another part many.
_HASH_SIDE = 16
_MAX_BITS = 12
# Brightness evened out, two photographs of one part differ by noise; two parts in one fixture where they are parts.
_THUMBNAIL_SIDE = 32
_MAX_DIFFERENCE = 3.0
# Images compared with all others at a time: 10 MB of distances for 20,000 images.
_BLOCK = 64


@dataclass(frozen=True)
class Leak:
    """A pair of images in two splits.

    Attributes:
        first, second: "split: image_id".
        kind: "identical" pixels, or "similar".
    """

    first: str
    second: str
    kind: str


def find_leaks(splits: Mapping[str, Iterable[tuple[str, bytes]]]) -> list[Leak]:
    """The pairs of images in different splits that show the same thing, identical ones first.

    Args:
        splits: per split, (image_id, encoded image). Each image is decoded once, and about 1 kB of it is kept.
    """
    prints = _Prints()
    names, owners = [], []
    for split, images in splits.items():
        for image_id, content in images:
            prints.add(content)
            names.append(f"{split}: {image_id}")
            owners.append(split)
    pairs = [
        Leak(names[first], names[second], "identical" if prints.are_identical(first, second) else "similar")
        for first, second in prints.pairs()
        if owners[first] != owners[second]
    ]
    return sorted(pairs, key=lambda leak: leak.kind)


def group_lookalikes(images: Iterable[bytes]) -> list[int]:
    """A group's number per image: the place of the first image that it looks like, over any number of steps.

    Args:
        images: encoded images; b"" for one that cannot be read, which is its own group.
    """
    prints, places, leader = _Prints(), [], []
    for place, content in enumerate(images):
        leader.append(place)
        if content:
            prints.add(content)
            places.append(place)

    def root(place: int) -> int:
        while leader[place] != place:
            place = leader[place]
        return place

    for first, second in prints.pairs():
        one, other = sorted((root(places[first]), root(places[second])))
        leader[other] = one
    return [root(place) for place in range(len(leader))]


class _Prints:
    """A digest of the pixels, a 256-bit difference hash and a thumbnail of each image."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.hashes: list[np.ndarray] = []
        self.thumbnails: list[np.ndarray] = []

    def add(self, content: bytes) -> None:
        image = Image.open(io.BytesIO(content))
        self.digests.append(hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).digest()[:16])
        grey = image.convert("L")
        small = np.asarray(grey.resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX), np.int16)
        self.hashes.append(np.packbits(small[:, 1:] > small[:, :-1]))
        self.thumbnails.append(_evened(grey))

    def are_identical(self, first: int, second: int) -> bool:
        return self.digests[first] == self.digests[second]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(first, second), first < second, of all images that show the same thing."""
        if not self.hashes:
            return
        hashes = np.stack(self.hashes).view(np.uint64)
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK]
            distance = sum(_bit_count(block[:, None, word] ^ hashes[None, start:, word]) for word in range(4))
            for row, column in np.argwhere(np.triu(distance <= _MAX_BITS, 1)):
                first, second = start + int(row), start + int(column)
                gap = np.abs(self.thumbnails[first].astype(np.int16) - self.thumbnails[second]).mean()
                if gap <= _MAX_DIFFERENCE or self.are_identical(first, second):
                    yield first, second


def _evened(grey: Image.Image) -> np.ndarray:
    small = np.asarray(grey.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX), np.float32)
    spread = max(float(small.std()), 4.0)  # a blank wall must not be stretched until its noise is a pattern
    return np.clip((small - small.mean()) * (40.0 / spread) + 128, 0, 255).astype(np.uint8)


def _bit_count(words: np.ndarray) -> np.ndarray:
    """The number of ones in each uint64, by halving sums; numpy before 2 has no bitwise_count."""
    words = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    words = (words & np.uint64(0x3333333333333333)) + ((words >> np.uint64(2)) & np.uint64(0x3333333333333333))
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int16)
