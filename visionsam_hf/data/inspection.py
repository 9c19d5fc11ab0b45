"""What is in a data set: counts, sizes of defects, and samples to look at, on one page.

The page of `visionsam inspect` is one file, needs no network, and is light or dark as its reader's screen.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from visionsam_hf.data.masks import decode_mask, decode_rle
from visionsam_hf.data.overlays import CHOSEN, REJECTED, TRUTH, Overlay, close_up, data_uri, thumbnail

# Upper edges of the size classes, as shares of the image's area.
SIZE_CLASSES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SIDE = 220
# A defect below this share of the image gets a close-up beside the whole.
_SMALL = 0.01


@dataclass
class Sample:
    """One row to look at: pictures as data URIs with a word about each."""

    title: str
    category: str
    lines: list[str]
    pictures: list[tuple[str, str]]


@dataclass
class SplitSummary:
    """The counts of one split and its samples.

    Attributes:
        rows: number of rows.
        defective: images with a defect (segmentation only).
        objects: prompts: objects of all images, or the rows themselves.
        categories: rows per category.
        defects: objects per kind of defect (segmentation only).
        sizes: objects per class of `SIZE_CLASSES`.
        image_sizes: images per (width, height).
        samples: a few rows.
    """

    rows: int = 0
    defective: int = 0
    objects: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


def kind_of(columns: Iterable[str]) -> str:
    """Which of the three schemas a data set's columns are: "preference", "candidates" or "segmentation"."""
    columns = set(columns)
    return "preference" if "chosen" in columns else "candidates" if "candidates" in columns else "segmentation"


def summarise(rows: Iterable[dict[str, Any]], categories: Sequence[str], *, kind: str, samples: int) -> SplitSummary:
    """Count one split's rows, and draw up to `samples` of them, taking the first ones of each category in turn.

    Args:
        rows: decoded rows; one is in memory at a time.
        categories: names of the category column.
        kind: from `kind_of`.
    """
    summary = SplitSummary()
    # Without reading twice, nobody knows how many categories will come: keep enough of each, thin out at the end.
    drawn: dict[str, list[Sample]] = defaultdict(list)
    for row in rows:
        category = categories[row["category"]]
        summary.rows += 1
        summary.categories[category] += 1
        summary.image_sizes[row["image"].size] += 1
        if kind == "segmentation":
            _count_objects(summary, row)
        else:
            summary.objects += 1
            if row["truth"] is not None:
                summary.sizes[_size_class(float(decode_mask(row["truth"]).mean()))] += 1
        of = drawn[category]
        seen = summary.categories[category]
        # The 1st, 2nd, 4th, 8th ... row, so that samples are not all from the beginning.
        if len(of) < samples and (len(of) < 2 or seen & (seen - 1) == 0 or seen % 97 == 0):
            of.append(_sample(row, category, kind))
    while len(summary.samples) < samples and any(drawn.values()):
        for category in sorted(drawn):
            if drawn[category] and len(summary.samples) < samples:
                summary.samples.append(drawn[category].pop(0))
    summary.samples.sort(key=lambda sample: sample.category)
    return summary


def _count_objects(summary: SplitSummary, row: Mapping[str, Any]) -> None:
    pixels = row["image"].width * row["image"].height
    summary.defective += bool(row["defective"])
    summary.objects += len(row["objects"])
    for item in row["objects"]:
        summary.defects[item["defect"]] += 1
        summary.sizes[_size_class(item["area"] / pixels)] += 1


def _size_class(share: float) -> int:
    return next(place for place, limit in enumerate(SIZE_CLASSES) if share <= limit)


def _sample(row: Mapping[str, Any], category: str, kind: str) -> Sample:
    image = row["image"]
    if kind == "segmentation":
        overlays = [Overlay(decode_rle(item["rle"]), TRUTH, item["box"]) for item in row["objects"]]
        words = ", ".join(f"{count} {name}" for name, count in Counter(o["defect"] for o in row["objects"]).items())
        lines = [words or "no defect", f"{image.width} × {image.height}"]
        pictures = [("whole image", thumbnail(image, overlays, side=_SIDE))]
        if row["objects"]:
            largest = max(row["objects"], key=lambda item: item["area"])
            if largest["area"] < _SMALL * image.width * image.height:
                pixels = np.asarray(image.convert("RGB"))
                outlines = [Overlay(overlay.mask) for overlay in overlays]
                pictures.append(("largest defect", close_up(pixels, outlines, largest["box"], side=_SIDE)))
                pictures.append(("without outline", close_up(pixels, [], largest["box"], side=_SIDE)))
    else:
        lines, pictures = _ranked(row, kind)
    return Sample(row["image_id"], category, lines, [(word, data_uri(picture)) for word, picture in pictures])


def _ranked(row: Mapping[str, Any], kind: str) -> tuple[list[str], list[tuple[str, Image.Image]]]:
    """The prompt's surroundings: the truth if known, then chosen and rejected, or every candidate."""
    box, shown = row["box"], []
    if row["truth"] is not None:
        shown.append(("truth", decode_mask(row["truth"]), TRUTH))
    if kind == "preference":
        shown.append(("chosen", decode_mask(row["chosen"]), CHOSEN))
        shown.append(("rejected", decode_mask(row["rejected"]), REJECTED))
        lines = [f"margin {row['margin']:.2f}, {row['votes']} votes"]
    else:
        for candidate in row["candidates"]:
            shown.append((f"score {candidate['score']:.2f}", decode_rle(candidate["rle"]), CHOSEN))
        lines = [f"{len(row['candidates'])} candidates"]
    pixels = np.asarray(row["image"].convert("RGB"))
    pictures = [(word, close_up(pixels, [Overlay(mask, colour)], box, side=_SIDE)) for word, mask, colour in shown]
    return [f"prompt {row['object_index']}", *lines], pictures


def size_names() -> list[str]:
    """The size classes in words, as percentages of the image's area."""
    edges = [0.0, *SIZE_CLASSES]
    return [f"{100 * low:g} to {100 * high:g} %" for low, high in zip(edges, edges[1:])]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: data set</title>
<style>
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1d1f23; --faint: #5f646d; --line: #dcdddf; --bar: #c2187f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e7e8ea; --faint: #a0a5ae; --line: #34373d; --bar: #ff5cc0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; color: var(--faint); }
nav a { margin-right: 1rem; }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.columns { display: flex; flex-wrap: wrap; gap: 2.5rem; }
.columns > * { flex: 0 1 auto; min-width: 0; max-width: 100%; }
td.bar { min-width: 9rem; padding: 0; }
td.bar div { height: .75rem; background: var(--bar); border-radius: 2px; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .7rem; border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-end; }
.pictures div { flex: 1 1 90px; max-width: 220px; font-size: .75rem; color: var(--faint); }
.pictures img { display: block; width: 100%; max-height: 220px; object-fit: contain; object-position: left bottom; }
figcaption { margin-bottom: .4rem; font-size: .85rem; overflow-wrap: anywhere; }
figcaption span { color: var(--faint); }
@media print { figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p>{{ words[kind] }}. {{ "{:,}".format(total) }} rows.</p>
<nav aria-label="Splits">{% for split in splits %}<a href="#{{ split }}">{{ split }}</a>{% endfor %}</nav>
<p>{{ legend[kind] }}</p>

<h2>Rows per split and category</h2>
<div class="wide"><table>
<thead><tr><th scope="col">category</th>
{% for split in splits %}<th scope="col">{{ split }}</th>{% endfor %}</tr></thead>
<tbody>
{% for category in categories %}<tr><td>{{ category }}</td>
{%- for of in splits.values() %}
<td>{{ "{:,}".format(of.categories[category]) if of.categories[category] else "–" }}</td>
{%- endfor %}</tr>
{% endfor %}
<tr><th scope="row">all</th>{% for of in splits.values() %}<th>{{ "{:,}".format(of.rows) }}</th>{% endfor %}</tr>
{% if kind == "segmentation" %}
<tr><td>with a defect</td>{% for of in splits.values() %}<td>{{ "{:,}".format(of.defective) }}</td>{% endfor %}</tr>
<tr><td>objects (prompts)</td>{% for of in splits.values() %}<td>{{ "{:,}".format(of.objects) }}</td>{% endfor %}</tr>
{% endif %}
</tbody></table></div>

<div class="columns">
{% for heading, column, counts in bars if counts %}
<section><h2>{{ heading }}</h2>
<table><thead><tr><th scope="col">{{ column }}</th><th scope="col">count</th><th></th></tr></thead><tbody>
{% for label, count in counts %}<tr><td>{{ label }}</td><td>{{ "{:,}".format(count) }}</td>
<td class="bar"><div style="width: {{ "%.1f"|format(100 * count / counts|map(attribute=1)|max) }}%"></div></td></tr>
{% endfor %}</tbody></table></section>
{% endfor %}
<section><h2>Size of the images</h2>
<table><thead><tr><th scope="col">pixels</th><th scope="col">images</th></tr></thead><tbody>
{% for (width, height), count in image_sizes[:10] %}
<tr><td>{{ width }} × {{ height }}</td><td>{{ "{:,}".format(count) }}</td></tr>
{% endfor %}
{% if image_sizes|length > 10 %}<tr><td>{{ image_sizes|length - 10 }} other sizes</td>
<td>{{ "{:,}".format(image_sizes[10:]|map(attribute=1)|sum) }}</td></tr>{% endif %}
</tbody></table></section>
</div>

{% for split, of in splits.items() %}
<h2 id="{{ split }}">{{ split }}: {{ of.samples|length }} of {{ "{:,}".format(of.rows) }}</h2>
<div class="samples">
{% for sample in of.samples %}<figure>
<figcaption><strong>{{ sample.category }}</strong>
<span>{{ sample.lines|join(" · ") }}<br>{{ sample.title }}</span></figcaption>
<div class="pictures">
{% for word, uri in sample.pictures %}
<div><img src="{{ uri }}" alt="{{ sample.title }}, {{ word }}" loading="lazy">{{ word }}</div>
{% endfor %}</div></figure>
{% endfor %}</div>
{% endfor %}
</body>
</html>
"""

_WORDS = {
    "segmentation": "Segmentation data set: a row an image",
    "candidates": "Candidate set: a row a prompt, with masks to rank",
    "preference": "Preference data set: a row a prompt, with a chosen and a rejected mask",
}
_LEGEND = {
    "segmentation": "White: the mask's outline. Yellow: the box of an object, which prompts the model.",
    "candidates": "White: the true mask's outline, where there is one. Blue: a candidate's.",
    "preference": "White: the true mask's outline, where there is one. Blue: chosen. Purple: rejected.",
}


def inspection_page(name: str, kind: str, splits: Mapping[str, SplitSummary]) -> str:
    """The HTML of a data set's page.

    Args:
        name: what to call the data set.
        kind: from `visionsam_hf.data.inspection.kind_of`.
        splits: summary per split, in order.
    """
    together: dict[str, Counter] = {
        key: sum((getattr(of, key) for of in splits.values()), start=Counter())
        for key in ("categories", "defects", "sizes", "image_sizes")
    }
    sizes = [(label, together["sizes"][place]) for place, label in enumerate(size_names())] if together["sizes"] else []
    sized = "defects" if kind == "segmentation" else "true masks"
    environment = Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(_PAGE).render(
        name=name,
        kind=kind,
        splits=splits,
        words=_WORDS,
        legend=_LEGEND,
        total=sum(of.rows for of in splits.values()),
        categories=sorted(together["categories"]),
        bars=[
            (f"Size of the {sized}", "share of the image", sizes),
            ("Kinds of defects", "kind", together["defects"].most_common(20)),
        ],
        image_sizes=together["image_sizes"].most_common(),
    )
