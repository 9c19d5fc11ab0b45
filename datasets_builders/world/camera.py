"""What a photograph adds to a scene: uneven light, defocus, colour cast, exposure, sensor noise."""

import cv2
import numpy as np

from datasets_builders.world import textures


def photograph(image: np.ndarray, rng: np.random.Generator, *, focus: float = 0.5, grey: float = 0.12) -> np.ndarray:
    """Take the picture.

    Args:
        image: (H, W, 3) float32 in about 0..1.
        rng: the source of all chance; the numbers drawn do not depend on the image.
        focus: typical blur in pixels of a 256-pixel image.
        grey: how often the camera is monochrome.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    unit = max(height, width) / 256
    angle, fall, vignette = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.14)), abs(rng.normal(0, 0.12))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = (
        1
        + np.float32(fall) * (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))
        - np.float32(vignette) * (x * x + y * y) / 2
    )
    exposure = rng.uniform(0.85, 1.15)
    cast = exposure * (1 + rng.normal(0, 0.03, 3))
    blur = focus * rng.lognormal(0, 0.45) * unit
    noise = min(0.05, 0.01 * rng.lognormal(0, 0.6))
    gamma = rng.uniform(0.85, 1.2)
    picture = image * cv2.merge([light * np.float32(channel) for channel in cast])
    np.clip(picture, 0, 1, out=picture)
    if blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture = cv2.pow(picture, gamma)
    luminance = textures.grain(rng, height, width)
    chroma = cv2.merge([textures.value_noise(rng, height, width, 2.0, 2.0) for _ in range(3)]) * np.float32(0.6 * noise)
    luminance *= np.float32(noise)
    picture += chroma
    picture += cv2.merge((luminance, luminance, luminance))
    if rng.random() < grey:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.convertScaleAbs(np.maximum(picture, 0, out=picture), alpha=255)
