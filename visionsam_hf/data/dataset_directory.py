"""Data set directories: Parquet files with embedded images and a card, as the Hub and plain `load_dataset` want them.

    DIR/
    ├── README.md                          the card; its YAML names the splits and the columns
    └── data/
        ├── train-00000-of-00001.parquet
        └── heldout-00000-of-00001.parquet
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Image, IterableDataset, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.splits import SplitDict, SplitInfo
from datasets.table import table_cast

from visionsam_hf.data.data_card import complete_data_card
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.data.files import unfinished, write_text
from visionsam_hf.data.records import fingerprint, looks_local
from visionsam_hf.data.schema import (
    OPTIONAL,
    candidate_features,
    checked_preferences,
    preference_features,
    segmentation_features,
)

SCHEMAS = {"segmentation": segmentation_features, "candidates": candidate_features, "preference": preference_features}
# The Hub's viewer reads whole row groups, and so does whoever streams the first row.
ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 32 << 20
SHARD_BYTES = 500 << 20

# Kept in each file: the size of its rows in memory, which the Hub calls a split's size and Parquet does not know.
_ARROW_BYTES = b"arrow_bytes"
_SHARD_NAME = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet")


def split_names(name_or_path: str | Path, config: str | None = None) -> list[str]:
    """The splits of a data set directory or Hub data set, in the usual order; [] for a directory without any."""
    usual = {name: place for place, name in enumerate(("train", "validation", "test", "heldout"))}
    if looks_local(str(name_or_path)):
        matches = (_SHARD_NAME.fullmatch(file.name) for file in Path(name_or_path).glob("data/*.parquet"))
        found = {match["split"] for match in matches if match}
    else:
        try:
            found = set(get_dataset_split_names(str(name_or_path), config))
        except (DatasetNotFoundError, ConnectionError) as error:
            raise _not_on_hub(str(name_or_path), error) from None
    return sorted(found, key=lambda name: (usual.get(name, len(usual)), name))


def split_to_judge_by(name: str, config: str | None = None) -> str:
    """The held-out split of a data set, else its test split. Raises `UserError` where it has neither."""
    present = split_names(name, config)
    for split in ("heldout", "test"):
        if split in present:
            return split
    raise UserError(f"{name}: has no split 'heldout' or 'test' (it has {', '.join(present) or 'none'}); give --split NAME")


def load_split(
    name_or_path: str | Path, split: str, *, kind: str, config: str | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """One split of a data set directory or of a Hub data set, with its columns checked.

    Args:
        name_or_path: a directory with `data/<split>-*.parquet`, or a Hub id.
        split: train, validation, test or heldout.
        kind: "segmentation", "candidates" or "preference": the schema (visionsam_hf/data/schema.py) it must follow.
        config: the configuration of a Hub data set that has several; a directory has none.
        streaming: read rows as they are asked for; nothing is copied to the cache. The rows of preferences are then
            not checked in advance: pass them through `visionsam_hf.data.schema.checked_preferences`.

    Raises:
        UserError: no such directory or Hub data set, no such split, an empty split, a missing column, a preference
            row that means nothing, damage; also later, when a row is read and its image cannot be decoded.
    """
    name = str(name_or_path)
    where = f"{name}: split '{split}'"
    if looks_local(name):
        if config:
            raise UserError(f"dataset_config: is '{config}', but {name} is a directory, which has none; leave it out")
        dataset = _load_local(Path(name), split, streaming)
    else:
        try:
            dataset = load_dataset(name, config, split=split, streaming=streaming)
        except (DatasetNotFoundError, ConnectionError) as error:
            raise _not_on_hub(name, error) from None
        except ValueError as error:
            raise UserError(f"{where}: cannot be read ({error}); choose a split of the data set") from None
    _check_columns(dataset, name, kind)
    if kind == "preference" and not streaming:
        for _ in checked_preferences(rows_of(dataset), f"{name}, split {split}"):
            pass
    if not streaming:
        if len(dataset) == 0:
            raise _empty(name, split)
        with decoding(where):
            dataset.data.validate(full=True)  # of words, that they are UTF-8; pixels are not looked at
    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset.info.features[column] = StoredImage(where, feature)
    return dataset


class StoredImage(Image):
    """`datasets.Image` that says where the bytes lie that it cannot decode; stored and compared like the one it copies."""

    def __init__(self, where: str, like: Image) -> None:
        super().__init__(mode=like.mode, decode=like.decode)
        self.where = where

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and (self.mode, self.decode) == (other.mode, other.decode)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        with decoding(f"{self.where}: image '{value.get('path') or ''}'" if isinstance(value, dict) else self.where):
            return super().decode_example(value, token_per_repo_id=token_per_repo_id)


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
    # Not load_dataset(directory): the card may be edited or missing, the files speak for themselves.
    files = list(map(str, split_files(directory, split)))
    where = f"{directory}: split '{split}'"
    with decoding(where):
        count = sum(pq.read_metadata(file).num_rows for file in files)
        features = Features.from_arrow_schema(pq.read_schema(files[0]))
    if count == 0:
        raise _empty(directory, split)
    if streaming:
        return IterableDataset.from_generator(
            _stored_rows, features=features, gen_kwargs={"files": files, "where": where, "schema": features.arrow_schema}
        )
    with decoding(where):
        return load_dataset("parquet", data_files={split: files}, split=split)


def split_files(directory: str | Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order."""
    return sorted(Path(directory).glob(f"data/{split}-?????-of-?????.parquet"))


def _stored_rows(files: Sequence[str], where: str, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Rows as stored, a hundred in memory at a time."""
    for name in files:
        with pq.ParquetFile(name) as file:
            batches = file.iter_batches(batch_size=ROW_GROUP_ROWS)
            while True:
                with decoding(where):
                    batch = next(batches, None)
                    if batch is None:
                        break
                    rows = table_cast(pa.Table.from_batches([batch]), schema).to_pylist()
                yield from rows


def _check_columns(dataset: Dataset | IterableDataset, name: str, kind: str) -> None:
    wanted = SCHEMAS[kind](["any"])
    columns = dataset.column_names or []
    missing = [column for column in wanted if column not in (*columns, *OPTIONAL)]
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
    """Write `README.md` from a card's text, completed by what was written: columns, files, sizes and rows per split.

    `load_dataset(DIRECTORY)` knows a directory by its last name and its card's YAML, not by its rows. So the YAML holds
    a hash of the files: without it, a rebuilt directory's rows would be those in the cache.
    """
    splits = SplitDict()
    files = {name: split_files(directory, name) for name, count in rows.items() if count}
    for name, of in files.items():
        size = sum(int(pq.read_metadata(file).metadata[_ARROW_BYTES]) for file in of)
        splits.add(SplitInfo(name, num_bytes=size, num_examples=rows[name]))
    info = DatasetInfo(
        description=f"content {fingerprint(Path(directory) / 'data')}",
        features=features,
        splits=splits,
        download_size=sum(file.stat().st_size for of in files.values() for file in of),
        dataset_size=sum(of.num_bytes for of in splits.values()),
    )
    write_text(Path(directory) / "README.md", complete_data_card(card, info))


def _write_split(directory: Path, split: str, rows: Iterable[dict[str, Any]], features: Features) -> int:
    batch: list[dict[str, Any]] = []
    batch_bytes = 0
    with _Shards(directory, split, features) as shards:
        for row in rows:
            encoded = {name: _embedded(value) for name, value in features.encode_example(row).items()}
            batch.append(encoded)
            batch_bytes += sum(_image_size(encoded[name]) for name in encoded)
            if len(batch) == ROW_GROUP_ROWS or batch_bytes >= ROW_GROUP_BYTES:
                shards.write(batch, batch_bytes)
                batch, batch_bytes = [], 0
        if batch:
            shards.write(batch, batch_bytes)
        shards.rename()
    return shards.rows


class _Shards:
    """The Parquet files of one split; their final names need their number, so they are renamed at the end."""

    def __init__(self, directory: Path, split: str, features: Features) -> None:
        self.directory, self.split, self.schema = directory, split, features.arrow_schema
        self.files: list[Path] = []
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._bytes = self._arrow_bytes = 0
        self._unfinished = contextlib.ExitStack()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *_: Any) -> None:
        with self._unfinished:
            self.close()

    def write(self, batch: list[dict[str, Any]], size: int) -> None:
        if self._writer is not None and self._bytes + size > SHARD_BYTES:
            self.close()
        if self._writer is None:
            path = self.directory / f"{self.split}-{len(self.files):05d}"
            self.files.append(self._unfinished.enter_context(unfinished(path)))
            # Images are compressed already: a page index serves row lookup, dictionaries of them only cost memory.
            self._writer = pq.ParquetWriter(self.files[-1], self.schema, write_page_index=True, compression="snappy")
            self._bytes = self._arrow_bytes = 0
        table = pa.Table.from_pylist(batch, schema=self.schema)
        self._writer.write_table(table, row_group_size=len(batch))
        self.rows += len(batch)
        self._bytes += size
        self._arrow_bytes += table.nbytes

    def close(self) -> None:
        if self._writer is not None:
            self._writer.add_key_value_metadata({_ARROW_BYTES: str(self._arrow_bytes)})
            self._writer.close()
            self._writer = None

    def rename(self) -> None:
        self.close()
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
