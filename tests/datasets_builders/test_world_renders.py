"""The pictures stay what they are: the same settings, the same world as in earlier versions.

Bits differ between processors, so a picture is told by its mean colour and the areas of its masks. To record a change
that is meant: `python tests/datasets_builders/test_world_renders.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets_builders.world.scene import (
    ALL_DEFECTS,
    PRODUCTS,
    PaintSettings,
    paint_defects,
    render_product,
    render_shapes,
)

RECORDED = Path(__file__).with_name("renders.json")
NAMES = [*PRODUCTS, "shapes", *(f"painted {defect}" for defect in ALL_DEFECTS)]


def told(name: str) -> dict:
    """Mean colour, and kind and area of every mask, of two pictures."""
    found: dict = {"colour": [], "areas": []}
    for index in (1, 2):
        if name.startswith("painted "):
            image = render_product("groove", size=96, seed=1, index=index, defective=False).image
            settings = PaintSettings(defects=(name.removeprefix("painted "),))
            pixels, regions = paint_defects(image, rng=np.random.default_rng(index), settings=settings)
        else:
            place = {"size": 96, "seed": 7, "index": index}
            scene = render_shapes(**place) if name == "shapes" else render_product(name, **place)
            pixels, regions = scene.image, (*scene.objects, *scene.defects)
        found["colour"].append(pixels.mean((0, 1)).round(2).tolist())
        found["areas"].append([[region.kind, int(region.mask.sum())] for region in regions])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_what_it_was(name):
    was, now = json.loads(RECORDED.read_text())[name], told(name)
    assert np.allclose(now["colour"], was["colour"], atol=0.3)
    for before, after in zip(was["areas"], now["areas"], strict=True):
        assert [kind for kind, _ in after] == [kind for kind, _ in before]
        assert [area for _, area in after] == pytest.approx([area for _, area in before], rel=0.02, abs=3)


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(told(name))}" for name in NAMES]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
