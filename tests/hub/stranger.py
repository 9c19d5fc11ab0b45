"""Somebody else's process: loads a pushed model with transformers alone. `python stranger.py REPO_ID REVISION OUT`.

With the word `trust` after these it runs the code that lies beside the weights.

visionsam_hf cannot be imported here. The pipeline wants torchvision for one function, the suppression of overlapping
boxes; it is stood in by a plain one, so that the test needs no torchvision.
"""

import sys
import types

if __name__ == "__main__":
    for blocked in ("visionsam_hf", "datasets_builders"):
        sys.modules[blocked] = None

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, SamModel, SamProcessor, pipeline
from transformers.utils import import_utils


def suppress(boxes, scores, idxs, iou_threshold):
    """Indices of boxes kept, best score first, none overlapping a better one by more than the threshold."""
    kept = []
    for index in torch.argsort(scores.flatten(), descending=True, stable=True).tolist():
        x1, y1 = torch.maximum(boxes[index, :2], boxes[kept, :2]).unbind(1)
        x2, y2 = torch.minimum(boxes[index, 2:], boxes[kept, 2:]).unbind(1)
        both = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        if not (both / (area[index] + area[kept] - both).clamp(min=1e-9) > iou_threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def stand_in_for_torchvision():
    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes")
    modules = [types.ModuleType(name) for name in names]
    modules[2].batched_nms = suppress
    sys.modules.update(zip(names, modules))
    import_utils.BACKENDS_MAPPING["torchvision"] = (lambda: True, "")


def photograph():
    """(48, 64, 3) noise with a dark disc, the same in every process."""
    pixels = np.random.default_rng(7).integers(90, 200, (48, 64, 3))
    rows, columns = np.mgrid[:48, :64]
    pixels[(rows - 24) ** 2 + (columns - 30) ** 2 < 100] //= 3
    return Image.fromarray(pixels.astype(np.uint8))


def masks_of(name, parts=(SamModel, SamProcessor), **how):
    """Masks of a box prompt, and all masks of the pipeline, as bool arrays."""
    model, processor = (part.from_pretrained(name, **how) for part in parts)
    inputs = processor(photograph(), input_boxes=[[[20.0, 14.0, 41.0, 35.0]]], return_tensors="pt")
    outputs = model(**inputs, multimask_output=False)
    box = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    stand_in_for_torchvision()
    # A random model is sure of nothing, and its masks overlap: keep them all.
    keep_all = {"pred_iou_thresh": -10.0, "stability_score_thresh": -1.0, "crops_nms_thresh": 1.0}
    generate = pipeline("mask-generation", model=name, device="cpu", **how)
    everything = generate(photograph(), points_per_batch=256, points_per_crop=4, **keep_all)
    found = np.array([np.asarray(mask) for mask in everything["masks"]], bool)
    return {"box": box[0].numpy(), "pipeline": found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        import visionsam_hf  # noqa: F401

        sys.exit("visionsam_hf can be imported here")
    except ImportError:
        pass
    trusting = {"parts": (AutoModel, AutoProcessor), "trust_remote_code": True} if "trust" in sys.argv[4:] else {}
    np.savez(sys.argv[3], **masks_of(sys.argv[1], revision=sys.argv[2], **trusting))
