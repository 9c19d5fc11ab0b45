"""Embeddings that stay on the training device, so that a batch carries their places instead of two megabytes an image."""

from collections.abc import Iterable

import torch
from torch import Tensor

from visionsam_hf.trainer.samples import ImageSource


def keep_on_device(sources: Iterable[ImageSource], device: torch.device, setting: str) -> Tensor | None:
    """All cached embeddings of some sources as one tensor on the device, if they are to stay there.

    Args:
        sources: filled from one cache; afterwards they give `image_places`, rows of the result.
        device: of the training.
        setting: "always", "never", or "auto": on a GPU whose free memory holds them twice. In main memory the system's
            file cache does this already, for all processes at once.

    Returns:
        (n, C, h, w) in the cache's dtype, or None.
    """
    sources = [source for source in sources if source.keys is not None]
    entries = list(dict.fromkeys(key for source in sources for key in source.entries))
    if not entries or setting == "never" or (setting == "auto" and device.type != "cuda"):
        return None
    cache = sources[0].cache
    assert cache is not None  # whoever has keys has a cache
    first = cache[entries[0]]
    if setting == "auto" and 2 * len(entries) * first.nbytes > torch.cuda.mem_get_info(device)[0]:
        return None
    table = torch.empty((len(entries), *first.shape), dtype=first.dtype, device=device)
    for place, key in enumerate(entries):
        table[place] = cache[key].to(device)
    places = {key: place for place, key in enumerate(entries)}
    for source in sources:
        source.places = places
    return table
