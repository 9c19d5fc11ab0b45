"""`visionsam inspect DIR`: what a data set holds, as a table here and as a page of pictures, inspect.html."""

from pathlib import Path

import pyarrow.parquet as pq
from datasets import load_dataset

from visionsam_hf.cli.dataset_options import InspectSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.dataset_directory import load_split, split_names
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.inspection import inspection_page, kind_of, summarise
from visionsam_hf.data.records import looks_local

PAGE = "inspect.html"


def run(settings: InspectSettings) -> Path:
    """Write the page and print the counts.

    Returns:
        The page's path.

    Raises:
        UserError: no such data set, an empty one, or columns of none of the three schemas.
    """
    name = settings.dataset
    with stage_run("inspect", settings) as stage:
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
    if looks_local(name):
        file = min((Path(name) / "data").glob(f"{split}-*.parquet"))
        try:
            return pq.read_schema(file).names
        except Exception as error:
            raise UserError(f"{file}: is damaged ({error}); build the data set again") from None
    return load_dataset(name, split=split, streaming=True).column_names or []
