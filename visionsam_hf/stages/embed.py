"""`visionsam embed CONFIG`: encode the images of a data set once."""

from dataclasses import dataclass

from visionsam_hf.config import setting


@dataclass
class EmbedSettings:
    """Settings of the embedding cache."""

    model_name_or_path: str = setting("", "model whose encoder is used", required=True, input=True)
    dataset: str = setting("", "data set with images: a directory or a Hub id", required=True, input=True)
    splits: list[str] = setting(["train"], "splits to encode")
    embeddings: str = setting("", "directory of the cache, shared by all stages", required=True)
    embedding_dtype: str = setting("float16", "float16 (2.1 MB an image for ViT-B) or float32")
    batch_size: int = setting(8, "images a forward of the encoder")
    output_dir: str = setting("", "directory of this stage's record", required=True)
    seed: int = setting(0, "unused by encoding; recorded")


def run(settings: EmbedSettings) -> None:
    """Fill the cache and record how many images it took."""
    import time

    from visionsam_hf.data import load_split
    from visionsam_hf.embeddings import EmbeddingCache
    from visionsam_hf.modeling import load_model, load_processor, to_best_device
    from visionsam_hf.stage import stage_run

    with stage_run("embed", settings) as run:
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache = EmbeddingCache(settings.embeddings, model, processor, dtype=settings.embedding_dtype)
        before, started, images = len(cache), time.perf_counter(), 0
        for split in settings.splits:
            images += len(cache.add(load_split(settings.dataset, split, kind="segmentation"), batch_size=settings.batch_size))
        run.results.update(
            images=images, encoded=len(cache) - before, seconds=round(time.perf_counter() - started, 3),
            directory=str(cache.directory),
        )
