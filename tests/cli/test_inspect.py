"""`visionsam inspect`: counts that are right, and a page that needs nothing but itself."""

import re

import numpy as np
import pytest
from PIL import Image

from visionsam_hf.cli.inspect import InspectSettings, run
from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.inspection import size_names, summarise
from visionsam_hf.data.masks import encode_mask, encode_rle
from visionsam_hf.data.schema import candidate_features, object_row, preference_features, segmentation_features

NAMES = ["ring", "screw & <nut>"]


def box_mask(side: int) -> np.ndarray:
    mask = np.zeros((100, 120), bool)
    mask[10 : 10 + side, 20 : 20 + side] = True
    return mask


def segmentation_row(number: int, side: int) -> dict:
    mask = box_mask(side)
    return {
        "image": Image.effect_noise((120, 100), 40).convert("RGB"),
        "mask": encode_mask(mask),
        "image_id": f"part/<{number}>",
        "source": "test",
        "category": number % 2,
        "defective": bool(side),
        "objects": [object_row(mask, "burr")] if side else [],
    }


def ranked_row(number: int, **columns) -> dict:
    row = segmentation_row(number, 8)
    shared = {name: row[name] for name in ("image", "image_id", "category")}
    return shared | {"box": [20.0, 10.0, 28.0, 18.0], "object_index": 0, "truth": row["mask"]} | columns


def write(directory, features, splits):
    kind = "segmentation"
    write_splits(directory, splits, features(NAMES), card=data_card(kind, title="T", summary="S"))
    return str(directory)


def pictures(page: str) -> list[str]:
    return re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)"', page)


def test_counts(tmp_path):
    rows = [segmentation_row(number, side) for number, side in enumerate((0, 8, 30, 100, 100))]
    summary = summarise(rows, NAMES, kind="segmentation", samples=3)
    assert (summary.rows, summary.defective, summary.objects) == (5, 4, 4)
    assert summary.categories == {"ring": 3, NAMES[1]: 2} and summary.defects == {"burr": 4}
    shares = {size_names()[place]: count for place, count in summary.sizes.items()}
    assert shares == {"0.3 to 1 %": 1, "3 to 10 %": 1, "30 to 100 %": 2}
    assert summary.image_sizes == {(120, 100): 5}
    assert [sample.category for sample in summary.samples] == ["ring", "ring", NAMES[1]]


def test_the_page_stands_alone_and_escapes(tmp_path, capsys):
    rows = [segmentation_row(number, 8) for number in range(4)]
    name = write(tmp_path / "parts & more", segmentation_features, {"train": rows, "heldout": rows[:1]})
    path = run(InspectSettings(dataset=name, samples=2))
    assert path == tmp_path / "parts & more-inspect" / "inspect.html"
    page = path.read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "part/<" not in page
    assert "parts &amp; more" in page and "screw &amp; &lt;nut&gt;" in page
    assert len(pictures(page)) == (2 + 1) * 3  # whole, close-up, close-up without outline
    assert "prefers-color-scheme: dark" in page
    printed = capsys.readouterr().out
    assert "train" in printed and "4 rows" in printed and str(path) in printed


def test_candidates_and_preferences(tmp_path):
    rle = encode_rle(box_mask(9))
    candidates = [{"rle": rle, "token": token, "source": "multimask", "score": 0.5} for token in range(3)]
    name = write(tmp_path / "candidates", candidate_features, {"train": [ranked_row(0, candidates=candidates)]})
    page = run(InspectSettings(dataset=name)).read_text(encoding="utf-8")
    assert len(pictures(page)) == 4 and "score 0.50" in page

    ranked = [
        {"rle": rle, "token": token, "score": 0.5, "mean_rank": 1.0}
        | dict.fromkeys(("coverage", "boundary", "over_under", "noise"))
        for token in range(3)
    ]
    pair = {"chosen": encode_mask(box_mask(9)), "rejected": encode_mask(box_mask(3)), "margin": 1.5, "votes": 3}
    row = ranked_row(0, candidates=ranked, annotations=[], **pair)
    name = write(tmp_path / "pairs", preference_features, {"train": [row]})
    page = run(InspectSettings(dataset=name)).read_text(encoding="utf-8")
    assert len(pictures(page)) == 3 and "margin 1.50, 3 votes" in page


def test_what_is_no_data_set_is_named(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="bare: holds no data/"):
        run(InspectSettings(dataset=str(tmp_path / "bare")))
    with pytest.raises(UserError, match="no such file or directory"):
        run(InspectSettings(dataset=str(tmp_path / "none")))
    (tmp_path / "bare/data").mkdir()
    (tmp_path / "bare/data/train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="train-00000-of-00001.parquet: is damaged"):
        run(InspectSettings(dataset=str(tmp_path / "bare")))
    assert not (tmp_path / "bare-inspect").exists()
