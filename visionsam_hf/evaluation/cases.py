"""The four ways a prompt can end, by rule: what the zero-shot study sorts by eye."""

import dataclasses

import numpy as np

CASES = ("aligned", "misaligned", "partial", "failure")
TITLES = {
    "aligned": "Correct, and scored so",
    "misaligned": "Correct, but another mask is scored higher",
    "partial": "Too much: the defect and its surroundings",
    "failure": "Failure",
}


@dataclasses.dataclass(frozen=True)
class CaseThresholds:
    """Where the four cases part.

    Args:
        correct_iou: from this IoU on, the best of the three masks is correct.
        aligned_gap: the best-scored mask may be this much IoU below the best one and still count as aligned.
        partial_coverage, partial_precision: a mask that covers at least so much of the defect at a lower precision
            than this is over-segmentation.
    """

    correct_iou: float = 0.7
    aligned_gap: float = 0.05
    partial_coverage: float = 0.8
    partial_precision: float = 0.5


def classify(
    ious: np.ndarray,
    coverage: np.ndarray,
    precision: np.ndarray,
    scores: np.ndarray,
    thresholds: CaseThresholds = CaseThresholds(),
) -> np.ndarray:
    """The case of each prompt, judged on its three candidates.

    'Partial' is judged on the best mask: if even that one covers the defect at low precision, the model found the
    object that the defect is on.

    Args:
        ious, coverage, precision, scores: (N, 3) of the candidates.

    Returns:
        (N,) strings of `CASES`.
    """
    rows = np.arange(len(ious))
    best, scored = ious.argmax(1), scores.argmax(1)
    # Rounding must not decide at a threshold.
    correct = ious[rows, best] >= thresholds.correct_iou - 1e-9
    aligned = ious[rows, scored] >= ious[rows, best] - thresholds.aligned_gap - 1e-9
    partial = (coverage[rows, best] >= thresholds.partial_coverage) & (
        precision[rows, best] < thresholds.partial_precision
    )
    return np.select([correct & aligned, correct, partial], ["aligned", "misaligned", "partial"], "failure")
