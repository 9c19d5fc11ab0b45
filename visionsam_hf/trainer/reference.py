"""Which reference logits are which: a key of the model that gave them and of the prompts that it was asked."""

import hashlib
import json

import torch

from visionsam_hf.embeddings import image_hash
from visionsam_hf.trainer.samples import PreferenceSamples


def reference_key(model: torch.nn.Module, samples: PreferenceSamples, policy_token: str) -> str:
    """A hash of everything that the reference logits of preference samples depend on.

    Args:
        model: the reference, all of whose weights count.
        samples: images, boxes and tokens, in their order.
        policy_token: "single" or "candidate", as in `DPOSettings`.
    """
    digest = hashlib.sha256(policy_token.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    for item in samples.index:
        row = samples.masks[item]
        tokens = [candidate["token"] for candidate in row["candidates"]]
        digest.update(json.dumps([image_hash(samples.source.images[item]["image"]), row["box"], tokens]).encode())
    return digest.hexdigest()[:32]
