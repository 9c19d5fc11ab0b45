"""`visionsam embed CONFIG`: encode the images of a data set once; `--info DIR` and `--prune DIR` look after a cache."""

from dataclasses import dataclass

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting
from visionsam_hf.embeddings.cache_settings import CacheSettings

_NEEDED = ("model_name_or_path", "dataset", "embeddings", "output_dir")


@dataclass
class EmbedSettings(CacheSettings):
    """Settings of the embedding cache."""

    model_name_or_path: str = setting("", "model whose encoder is used; needed to encode", input=True)
    dataset: str = setting("", "data set with images: a directory or a Hub id; needed to encode", input=True)
    splits: list[str] = setting(["train"], "splits to encode")
    variants: int = setting(1, "looks of every image to encode, as in sft: flips, turns and changed light")
    batch_size: int | None = setting(None, "the same as embedding_batch_size")
    output_dir: str = setting("", "directory of this stage's record; needed to encode")
    seed: int = setting(0, "unused by encoding; recorded")
    info: str = setting("", "a cache's directory: say what it holds, and encode nothing")
    prune: str = setting("", "a cache's directory: remove what can no longer be read, and encode nothing")

    def __post_init__(self) -> None:
        if self.info or self.prune:
            return
        for key in _NEEDED:
            if not getattr(self, key):
                raise UserError(f"embed: missing key '{key}'; add it, or pass --{key} on the command line")
        if self.variants < 1 or (self.batch_size or 1) < 1:
            raise UserError("variants, batch_size: must be at least 1; mend the settings")
        self.embedding_batch_size = self.batch_size or self.embedding_batch_size


def run(settings: EmbedSettings) -> None:
    """Fill the cache and record how many images it took; or look after one."""
    if settings.info or settings.prune:
        from visionsam_hf.embeddings.shards import describe_cache, prune_cache

        print(prune_cache(settings.prune) if settings.prune else describe_cache(settings.info))
        return
    _encode(settings)


def _encode(settings: EmbedSettings) -> None:
    import time

    from visionsam_hf.cli.run import stage_run
    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.embeddings.cache import open_cache
    from visionsam_hf.models.loading import load_model, load_processor, to_best_device

    with stage_run("embed", settings) as run:
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache = open_cache(settings, model, processor)
        assert cache is not None  # the settings name one
        before, started, images = len(cache), time.perf_counter(), 0
        for split in settings.splits:
            rows = load_split(settings.dataset, split, kind="segmentation")
            added = cache.add(rows, variants=settings.variants, together=True)
            images += len(added)
        run.results.update(
            images=images, encoded=len(cache) - before, seconds=round(time.perf_counter() - started, 3),
            directory=str(cache.directory), dtype=cache.dtype,
        )
