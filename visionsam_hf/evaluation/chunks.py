"""A data set in small pieces, for any number of processes: what bounds the memory of an evaluation."""

from collections.abc import Iterator

from datasets import Dataset, Image, IterableDataset

# Undecoded photographs of a stream in memory at once.
ROWS = 16
_COLUMNS = ["image", "image_id", "category", "objects"]


def dataset_chunks(
    dataset: Dataset | IterableDataset, *, max_prompts: int | None = None, process: int = 0, processes: int = 1
) -> Iterator[tuple[int, Dataset, int | None]]:
    """The pieces that one of several processes takes: every `processes`-th, whatever the kind of data set.

    Args:
        dataset: rows of the segmentation schema.
        max_prompts: over all processes; the pieces after that many objects are left out.
        process, processes: which of how many.

    Yields:
        (number of the first row, the rows, how many of their objects may be prompted or None for all).
    """
    left = max_prompts
    for number, (first, chunk) in enumerate(_pieces(dataset)):
        if number % processes == process:
            yield first, chunk, left
        if left is not None:
            left -= sum(len(row["objects"]) for row in chunk.select_columns(["objects"]))
            if left <= 0:
                return


def _pieces(dataset: Dataset | IterableDataset) -> Iterator[tuple[int, Dataset]]:
    dataset = dataset.select_columns(_COLUMNS)
    if isinstance(dataset, Dataset):
        for first in range(0, len(dataset), ROWS):
            yield first, dataset.select(range(first, min(first + ROWS, len(dataset))))
        return
    undecoded = dataset.cast_column("image", Image(decode=False))
    held, first = [], 0
    for row in undecoded:
        held.append(row)
        if len(held) == ROWS:
            yield first, _in_memory(held, undecoded)
            first, held = first + ROWS, []
    if held:
        yield first, _in_memory(held, undecoded)


def _in_memory(rows: list[dict], dataset: IterableDataset) -> Dataset:
    return Dataset.from_list(rows, features=dataset.features).cast_column("image", Image())
