"""Data set directories: Parquet files with embedded images and a card, as the Hub and plain `load_dataset` want them.

    DIR/
    ├── README.md                          the card; its YAML names the splits and the columns
    └── data/
        ├── train-00000-of-00001.parquet
        └── heldout-00000-of-00001.parquet
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError

from visionsam_hf.data.checks import checked_preferences
from visionsam_hf.data.data_card import complete_data_card
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import looks_local
from visionsam_hf.data.schema import candidate_features, preference_features, segmentation_features

SCHEMAS = {"segmentation": segmentation_features, "candidates": candidate_features, "preference": preference_features}
# The Hub's viewer reads whole row groups, and so does whoever streams the first row.
ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 32 << 20
SHARD_BYTES = 500 << 20

_SHARD_NAME = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet")


def split_names(name_or_path: str | Path) -> list[str]:
    """The splits of a data set directory or Hub data set, in the usual order; [] for a directory without any."""
    usual = {name: place for place, name in enumerate(("train", "validation", "test", "heldout"))}
    if looks_local(str(name_or_path)):
        matches = (_SHARD_NAME.fullmatch(file.name) for file in Path(name_or_path).glob("data/*.parquet"))
        found = {match["split"] for match in matches if match}
    else:
        try:
            found = set(get_dataset_split_names(str(name_or_path)))
        except (DatasetNotFoundError, ConnectionError) as error:
            raise _not_on_hub(str(name_or_path), error) from None
    return sorted(found, key=lambda name: (usual.get(name, len(usual)), name))


def load_split(
    name_or_path: str | Path, split: str, *, kind: str, streaming: bool = False
) -> Dataset | IterableDataset:
    """One split of a data set directory or of a Hub data set, with its columns checked.

    Args:
        name_or_path: a directory with `data/<split>-*.parquet`, or a Hub id.
        split: train, validation, test or heldout.
        kind: "segmentation", "candidates" or "preference": the schema (visionsam_hf/data/schema.py) it must follow.
        streaming: read rows as they are asked for; nothing is copied to the cache. The rows of preferences are then
            not checked in advance: pass them through `visionsam_hf.data.checks.checked_preferences`.

    Raises:
        UserError: no such directory or Hub data set, no such split, an empty split, a missing column, a preference
            row that means nothing.
    """
    name = str(name_or_path)
    if looks_local(name):
        dataset = _load_local(Path(name), split, streaming)
    else:
        try:
            dataset = load_dataset(name, split=split, streaming=streaming)
        except (DatasetNotFoundError, ConnectionError) as error:
            raise _not_on_hub(name, error) from None
        except ValueError as error:
            raise UserError(f"{name}: split '{split}' cannot be read ({error})") from None
    _check_columns(dataset, name, kind)
    if kind == "preference" and not streaming:
        for _ in checked_preferences(rows_of(dataset), f"{name}, split {split}"):
            pass
    if not streaming and len(dataset) == 0:
        raise _empty(name, split)
    return dataset


def _empty(name: str | Path, split: str) -> UserError:
    return UserError(f"{name}: split '{split}' is empty; build it with at least one row, or choose another split")


def _not_on_hub(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: no such directory, and no such data set on the Hub or in its cache ({error});"
        " mend the name, or log in with 'hf auth login'"
    )


def _load_local(directory: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; run the stage that writes it, or mend the path")
    splits = split_names(directory)
    if not splits:
        raise UserError(
            f"{directory}: holds no data/<split>-00000-of-00001.parquet; give the directory of a built data set"
        )
    if split not in splits:
        raise UserError(f"{directory}: has no split '{split}'; it has {', '.join(splits)}")
    try:
        # Not load_dataset(directory): the card may be edited or missing, the files speak for themselves.
        files = sorted(map(str, (directory / "data").glob(f"{split}-?????-of-?????.parquet")))
        if sum(pq.read_metadata(file).num_rows for file in files) == 0:
            raise _empty(directory, split)
        return load_dataset("parquet", data_files={split: files}, split=split, streaming=streaming)
    except UserError:
        raise
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(f"{directory}: split '{split}' cannot be read ({reason}); build the data set again") from error


def _check_columns(dataset: Dataset | IterableDataset, name: str, kind: str) -> None:
    wanted = SCHEMAS[kind](["any"])
    columns = dataset.column_names or []
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise UserError(
            f"{name}: column '{missing[0]}' is missing, so it is not a {kind} data set; "
            f"it has {', '.join(columns)}; give a {kind} data set"
        )
    for column in ("image", *(column for column in wanted if isinstance(wanted[column], Image))):
        if not isinstance(dataset.features[column], Image):
            raise UserError(
                f"{name}: column '{column}' does not hold images; cast it with cast_column('{column}', Image())"
            )


def write_splits(
    directory: str | Path, splits: Mapping[str, Iterable[dict[str, Any]]], features: Features, *, card: str
) -> dict[str, int]:
    """Write rows as they come to a directory that is also a Hub data set repository.

    The same rows give the same bytes. At most one row group (100 rows, or 32 MiB of images) is in memory.

    Args:
        directory: made if missing; its `data/` must not hold files of the same splits.
        splits: rows per split; an `Image` column takes a PIL image, encoded bytes, or {"bytes", "path"}.
            A split without rows is not written.
        features: from visionsam_hf/data/schema.py.
        card: the card's text (`visionsam_hf.data.data_card.data_card`); the front matter gets the splits and the columns,
            the body its table of splits.

    Returns:
        The number of rows per split, 0 for splits that were not written.
    """
    directory = Path(directory)
    (directory / "data").mkdir(parents=True, exist_ok=True)
    rows = {name: _write_split(directory / "data", name, items, features) for name, items in splits.items()}
    write_card(directory, card, features, rows)
    return rows


def write_preferences(
    directory: str | Path, splits: Mapping[str, Iterable[dict[str, Any]]], categories: Sequence[str], *, card: str
) -> dict[str, int]:
    """`write_splits` for preference rows, each checked; a bad one is a `UserError` with its row and column."""
    where = Path(directory).name
    checked = {name: checked_preferences(rows, f"{where}, split {name}") for name, rows in splits.items()}
    return write_splits(directory, checked, preference_features(categories), card=card)


def write_card(directory: str | Path, card: str, features: Features, rows: Mapping[str, int]) -> None:
    """Write `README.md` from a card's text, completed by what was written: columns, files and rows per split."""
    text = complete_data_card(card, features, {name: count for name, count in rows.items() if count})
    (Path(directory) / "README.md").write_text(text, encoding="utf-8")


def _write_split(directory: Path, split: str, rows: Iterable[dict[str, Any]], features: Features) -> int:
    shards = _Shards(directory, split, features)
    batch: list[dict[str, Any]] = []
    batch_bytes = 0
    try:
        for row in rows:
            encoded = {name: _embedded(value) for name, value in features.encode_example(row).items()}
            batch.append(encoded)
            batch_bytes += sum(_image_size(encoded[name]) for name in encoded)
            if len(batch) == ROW_GROUP_ROWS or batch_bytes >= ROW_GROUP_BYTES:
                shards.write(batch, batch_bytes)
                batch, batch_bytes = [], 0
        if batch:
            shards.write(batch, batch_bytes)
    finally:
        shards.close()
    shards.rename()
    return shards.rows


class _Shards:
    """The Parquet files of one split; their final names need their number, so they are renamed at the end."""

    def __init__(self, directory: Path, split: str, features: Features) -> None:
        self.directory, self.split, self.schema = directory, split, features.arrow_schema
        self.files: list[Path] = []
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def write(self, batch: list[dict[str, Any]], size: int) -> None:
        if self._writer is not None and self._bytes + size > SHARD_BYTES:
            self.close()
        if self._writer is None:
            self.files.append(self.directory / f"{self.split}-{len(self.files):05d}.writing")
            # Images are compressed already: a page index serves row lookup, dictionaries of them only cost memory.
            self._writer = pq.ParquetWriter(self.files[-1], self.schema, write_page_index=True, compression="snappy")
            self._bytes = 0
        self._writer.write_table(pa.Table.from_pylist(batch, schema=self.schema), row_group_size=len(batch))
        self.rows += len(batch)
        self._bytes += size

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def rename(self) -> None:
        for place, file in enumerate(self.files):
            file.rename(self.directory / f"{self.split}-{place:05d}-of-{len(self.files):05d}.parquet")


def _embedded(value: Any) -> Any:
    """An encoded image with its bytes; a path of this machine means nothing to whoever reads the file."""
    if not isinstance(value, dict) or set(value) != {"bytes", "path"}:
        return value
    content, path = value["bytes"], value["path"]
    if content is None:
        content = Path(path).read_bytes()
    return {"bytes": content, "path": Path(path).name if path else None}


def _image_size(value: Any) -> int:
    return len(value["bytes"]) if isinstance(value, dict) and "bytes" in value else 0


def rows_of(dataset: Dataset | IterableDataset) -> Iterable[dict[str, Any]]:
    """The rows of a data set with images as stored bytes, for `write_splits` to copy without decoding them."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    yield from dataset
