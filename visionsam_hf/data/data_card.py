"""Data cards, generated with the data: what it is, where it comes from, what its licence allows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import CardData, RepoCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

_SPLITS = "<!-- splits -->"
_SPLIT_MEANING = {
    "train": "to learn from",
    "validation": "to choose settings by; the categories of train",
    "test": "to measure on; the categories of train",
    "heldout": "to measure on; categories that are in no other split",
}

_KINDS = {
    "segmentation": (
        "One row an image.",
        [
            ("image", "the photograph, upright"),
            ("mask", "1-bit image of the same size: the union of the objects below"),
            ("image_id", "unique in the data set"),
            ("source", "the data set or folder the image comes from"),
            ("category", "the product, or the class folder"),
            ("defective", "whether the image shows a defect"),
            ("objects", "each region: `box` [x1, y1, x2, y2), `defect`, `area` in pixels, `rle` (COCO compressed)"),
        ],
    ),
    "candidates": (
        "One row a prompt (a box on an image), with the candidate masks that a model proposed for it.",
        [
            ("image, image_id, category", "as in the segmentation data set"),
            ("box", "the prompt: [x1, y1, x2, y2) in pixels"),
            ("object_index", "which entry of the image's `objects` the prompt is about"),
            ("truth", "1-bit mask of that object, or null"),
            ("candidates", "`rle` (COCO compressed), decoder `token`, `source`, predicted IoU `score`"),
        ],
    ),
    "preference": (
        "One row a prompt, with the mask that annotators chose and the one they rejected.",
        [
            ("image, image_id, category", "as in the segmentation data set"),
            ("box, object_index", "the prompt: [x1, y1, x2, y2) in pixels, and the object it is about"),
            ("chosen, rejected", "1-bit masks of the image's size"),
            ("chosen_kind", "ranked: the chosen mask is the first candidate; corrected: it is what people made of it"),
            ("margin, votes", "distance of their aggregate ranks; number of annotations behind it"),
            ("truth", "1-bit mask of the object, or null"),
            ("candidates", "every candidate, best first: `rle`, `token`, `score`, `mean_rank` and the four criteria"),
            ("annotations", "each annotation: pseudonym, human or oracle, ranking, deciding criterion, seconds"),
            ("regions", "circled mistakes: `candidate` (best first), `label` missed, extra, ragged or speckle, `rle`"),
        ],
    ),
}


def data_card(
    kind: str,
    *,
    title: str,
    summary: str,
    license: str = "unknown",
    creators: Sequence[str] = ("machine-generated",),
    sections: Mapping[str, str] | None = None,
) -> str:
    """The card of a data set, but for what only the written files know (`complete_data_card` adds it).

    Args:
        kind: "segmentation", "candidates" or "preference".
        title: the card's heading and the Hub's `pretty_name`.
        summary: a paragraph: what this is and where it comes from.
        license: the Hub's identifier: apache-2.0, cc-by-nc-4.0, other, unknown, ...
        creators: the Hub's `annotations_creators`: machine-generated, expert-generated, crowdsourced, found.
        sections: Markdown bodies by heading, in order: provenance, settings, known errors, citation, ...
    """
    row_is, columns = _KINDS[kind]
    front = {
        "license": license,
        "pretty_name": title,
        "task_categories": ["image-segmentation", "mask-generation"],
        "annotations_creators": list(creators),
        "tags": ["defect-segmentation", "visionsam", kind],
    }
    parts = [
        f"# {title}",
        summary,
        f"## What is in it\n{row_is} Masks have the size of their image; a box's x2 and y2 are exclusive.\n\n"
        + markdown_table(("column", "what"), [(f"`{name}`".replace(", ", "`, `"), what) for name, what in columns]),
        f"## Splits\n{_SPLITS}",
        "## How to load it\n```python\nfrom datasets import load_dataset\n\n"
        'data = load_dataset("path/to/this/directory")   # or its name on the Hub\n```',
    ]
    parts += [f"## {heading}\n{body}" for heading, body in (sections or {}).items()]
    return with_front(front, "\n\n".join(parts) + "\n")


def complete_data_card(card: str, info: DatasetInfo) -> str:
    """A card with the splits' files, columns, sizes and row counts in its YAML front matter and its table of splits.

    Args:
        card: from `data_card`, or any Markdown with or without front matter.
        info: columns and splits of what was written, and as `description` something that changes with the content.
    """
    front, body = split_front(card)
    front["size_categories"] = [_size_category(info.splits.total_num_examples if info.splits else 0)]
    files = [{"split": name, "path": f"data/{name}-*"} for name in info.splits]
    front["configs"] = [{"config_name": "default", "data_files": files}]
    DatasetInfosDict(default=info).to_dataset_card_data(front)
    front["dataset_info"]["description"] = info.description
    table = markdown_table(
        ("split", "rows", "for"),
        [(f"`{name}`", f"{of.num_examples:,}", _SPLIT_MEANING.get(name, "")) for name, of in info.splits.items()],
    )
    return with_front(front, body.replace(_SPLITS, table))


def split_front(card: str) -> tuple[dict[str, Any], str]:
    """The YAML front matter of a card as a dict ({} without one), and the Markdown after it."""
    if not REGEX_YAML_BLOCK.match(card):
        return {}, card
    parsed = RepoCard(card)
    return parsed.data.to_dict(), parsed.text.lstrip("\n")


def with_front(front: dict[str, Any], body: str) -> str:
    """A card from its front matter and the Markdown after it."""
    return f"---\n{CardData(**front).to_yaml()}\n---\n\n{body}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; bars and line ends in cells cannot break it, and tags in them stay text."""
    lines = [list(header), ["---"] * len(header), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _size_category(rows: int) -> str:
    limits = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6))
    return next((name for name, limit in limits if rows < limit), "1M<n<10M")
