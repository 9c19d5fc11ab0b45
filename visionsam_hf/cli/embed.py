"""`visionsam embed CONFIG`: encode the images of a data set once; `--info DIR` and `--prune DIR` look after a cache."""

import time

from visionsam_hf.cli.options import EmbedSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.windows import choose_rule, row_windows
from visionsam_hf.embeddings.cache import open_cache
from visionsam_hf.embeddings.shards import describe_cache, prune_cache
from visionsam_hf.models.loading import load_model, load_processor, to_best_device


def run(settings: EmbedSettings) -> None:
    """Fill the cache and record how many images it took; or look after one."""
    if settings.info or settings.prune:
        print(prune_cache(settings.prune) if settings.prune else describe_cache(settings.info))
    else:
        _encode(settings)


def _encode(settings: EmbedSettings) -> None:
    with stage_run("embed", settings) as run:
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache = open_cache(settings, model, processor)
        assert cache is not None  # the settings name one
        rule = choose_rule(settings, processor)
        before, started, images = len(cache), time.perf_counter(), 0
        for split in settings.splits:
            rows = load_split(settings.dataset, split, kind="segmentation", config=settings.dataset_config)
            windows = row_windows(rows.select_columns(["objects"]), rule)
            added = cache.add(rows, windows=windows, variants=settings.variants, together=True)
            images += len(added)
        run.results.update(
            images=images, encoded=len(cache) - before, seconds=round(time.perf_counter() - started, 3),
            directory=str(cache.directory), dtype=cache.dtype,
        )
        taken = run.results["seconds"]
        run.achieved = f"{images} images, {run.results['encoded']} of them encoded now in {taken:.1f} s, in {cache.directory}"
