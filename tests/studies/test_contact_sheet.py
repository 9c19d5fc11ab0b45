"""The contact sheets: their size, and outlines that leave the defect to be seen."""

import numpy as np
from studies.contact_sheet import outlined, painted_sheet, world_sheet, write

from datasets_builders.world.scene import Region


def test_an_outline_goes_round_the_defect_not_over_it():
    image, mask = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), bool)
    mask[40:50, 40:50] = True
    drawn = outlined(image, (Region("hole", mask),), 100)
    lit = drawn.any(2)
    assert lit.sum() > 40 and not lit[40:50, 40:50].any() and not lit[:30].any()


def test_sheets_have_a_row_a_name_and_are_written_small(tmp_path):
    world = world_sheet(columns=2, cell=48, categories=("ring", "wood"))
    painted = painted_sheet(pairs=2, cell=48, defects=("hole", "crack", "stain"))
    assert world.width < painted.width and world.height < painted.height
    write(world, tmp_path / "sheet.png")
    assert 1000 < (tmp_path / "sheet.png").stat().st_size < 60_000
