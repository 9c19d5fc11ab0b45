"""Overlap and boundary agreement of segmentation masks, for `evaluate.load`."""

from collections.abc import Sequence

import cv2  # noqa: F401  (this and scipy are named here so that `evaluate` asks for them; metrics.py uses them)
import datasets
import evaluate
import scipy  # noqa: F401
from pycocotools import mask as coco

from .metrics import COUNTS, averages, mask_counts


class DefectMasks(evaluate.Metric):
    """Masks as COCO compressed run lengths in, averages of IoU, Dice and boundary measures out (see README.md)."""

    def _info(self) -> evaluate.MetricInfo:
        mask = {"size": datasets.List(datasets.Value("int32")), "counts": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="Overlap and boundary agreement of segmentation masks.",
            citation="",
            inputs_description="predictions and references as COCO run lengths, and each one's category.",
            features=datasets.Features({"predictions": mask, "references": mask, "category": datasets.Value("string")}),
        )

    def _compute(self, predictions: Sequence[dict], references: Sequence[dict], category: Sequence[str]) -> dict:
        counted = [
            mask_counts(coco.decode(prediction).astype(bool), coco.decode(reference).astype(bool))
            for prediction, reference in zip(predictions, references)
        ]
        return {"n": len(counted), **averages({name: [each[name] for each in counted] for name in COUNTS}, category)}
