"""`visionsam inspect DIR`: what a data set holds, as a table here and as a page of pictures, inspect.html."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visionsam_hf.cli.run import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import looks_local
from visionsam_hf.data.settings import setting

PAGE = "inspect.html"


@dataclass
class InspectSettings:
    """Which data set, and how much of it to show."""

    dataset: str = setting("", "directory or Hub id of any of the three kinds", required=True, input=True)
    output_dir: str = setting("", "where inspect.html goes (default: DATASET-inspect beside a local data set)")
    samples: int = setting(24, "samples to show per split")


def run(settings: InspectSettings) -> Path:
    """Write the page and print the counts.

    Returns:
        The page's path.

    Raises:
        UserError: no such data set, an empty one, or columns of none of the three schemas.
    """
    name = settings.dataset
    is_local = looks_local(name)
    if not settings.output_dir:
        base = Path(name)
        settings.output_dir = str(base.parent / f"{base.name}-inspect") if is_local else f"{base.name}-inspect"
    with stage_run("inspect", settings) as stage:
        from visionsam_hf.data.dataset_directory import load_split, split_names
        from visionsam_hf.data.inspection import inspection_page, kind_of, summarise

        splits = split_names(name)
        if not splits:
            raise UserError(f"{name}: holds no data/<split>-*.parquet; give the directory of a built data set")
        summaries = {}
        kind = ""
        for split in splits:
            kind = kind or kind_of(_columns(name, split))
            dataset = load_split(name, split, kind=kind, streaming=True)
            categories = dataset.features["category"].names
            summaries[split] = summarise(dataset, categories, kind=kind, samples=settings.samples)
        page = inspection_page(Path(name).name, kind, summaries)
        (stage.directory / PAGE).write_text(page, encoding="utf-8")
        stage.results.update({split: {"rows": of.rows, "objects": of.objects} for split, of in summaries.items()})
    for split, of in summaries.items():
        counts = ", ".join(f"{category} {count}" for category, count in sorted(of.categories.items()))
        print(f"{split:<12}{of.rows:>8,} rows {of.objects:>8,} prompts   {counts}")
    path = Path(settings.output_dir) / PAGE
    print(path)
    return path


def _columns(name: str, split: str) -> list[str]:
    from datasets import load_dataset

    if looks_local(name):
        import pyarrow.parquet as pq

        file = min((Path(name) / "data").glob(f"{split}-*.parquet"))
        try:
            return pq.read_schema(file).names
        except Exception as error:
            raise UserError(f"{file}: is damaged ({error}); build the data set again") from None
    return load_dataset(name, split=split, streaming=True).column_names or []
