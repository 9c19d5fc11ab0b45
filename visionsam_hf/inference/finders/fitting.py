"""Fit a finder: its parts, the units of its maps, and the threshold for a stated rate of false alarms.

Whatever is calibrated is calibrated on photographs that the measuring parts have not seen. A validation split alone is
too small for that (with 8 good photographs nobody knows what one in twenty scores), so the training images take turns:
parts are fitted without every fold, and measure it. The heads of the folds, averaged, are the finder's head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import median_abs_deviation, norm
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from visionsam_hf.data.errors import UserError
from visionsam_hf.inference.finders.cell_head import CellHead, Cells, fit_head
from visionsam_hf.inference.finders.finder import Finder, FinderConfig, raw_maps, smoothed
from visionsam_hf.inference.finders.memory_bank import greedy_coreset, unit_cells

FEWEST_GOOD, FEWEST_DEFECTIVE = 5, 5  # photographs: below, nothing can be said of the next one


@dataclass(frozen=True)
class Fitted:
    """A finder and what its calibration rests on.

    Attributes:
        finder: ready to use.
        scores, defective: (N,) of the images that measured parts had not seen.
        epochs: of each head.
    """

    finder: Finder
    scores: np.ndarray
    defective: np.ndarray
    epochs: list[int]


def fit_finder(
    config: FinderConfig, train: Cells, held: Cells | None = None, *, bank_size: int = 2000, folds: int = 4, seed: int = 0
) -> Fitted:
    """Fit what `config.kind` names, on training images, and calibrate it.

    Args:
        config: kind and false alarm rate; units, threshold and probability are filled in.
        train: photographs, good ones and (but for a bank) defective ones.
        held: of a validation split, for the calibration only; may be None.
        bank_size: cells in the bank. folds: turns, and heads. seed: of folds, coreset and heads.

    Raises:
        UserError: too few good or defective photographs for this kind.
    """
    defective = (train.targets > 0).flatten(1).any(1).numpy()
    check_counts(config.kind, int((~defective).sum()), int(defective.sum()))
    wants_bank, wants_head = config.kind in ("bank", "both"), config.kind in ("head", "both")
    turn = _turns(defective, folds, seed)
    heads: list[CellHead] = []
    epochs: list[int] = []
    measured: list[tuple[Cells, dict[str, Tensor]]] = []
    for fold in range(folds):
        inside, outside = (train.select(np.flatnonzero(chosen).tolist()) for chosen in (turn != fold, turn == fold))
        head = []
        if wants_head:
            fitted, epoch = fit_head(inside, outside, seed=seed + fold)
            head, heads, epochs = [fitted], [*heads, fitted], [*epochs, epoch]
        bank = _bank(inside, bank_size, seed) if wants_bank else None
        with torch.inference_mode():
            measured.append((outside, raw_maps(bank, head, outside.embeddings)))
    bank = _bank(train, bank_size, seed) if wants_bank else None
    if held is not None:
        with torch.inference_mode():
            measured.append((held, raw_maps(bank, heads, held.embeddings)))
    config.heads = len(heads)
    scores, labels = _calibrate(config, measured)
    return Fitted(Finder(config, bank, heads).eval(), scores, labels, epochs)


def check_counts(kind: str, good: int, defective: int) -> None:
    """Refuse a finder of this kind where photographs are too few."""
    if good < FEWEST_GOOD:
        told = f"the split has {good} good photographs, and a finder needs {FEWEST_GOOD} to know what good parts look like"
        raise UserError(f"{told}; build the data set with keep_good true")
    if defective < FEWEST_DEFECTIVE and kind in ("head", "both"):
        told = f"the split has {defective} defective photographs, and a head needs {FEWEST_DEFECTIVE}"
        raise UserError(f"finder: {told}; choose finder: bank, which learns from good ones alone")


def _turns(defective: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) number of the fold of each image; good and defective ones are dealt out evenly."""
    order = np.random.default_rng(seed).permutation(len(defective))
    turn = np.empty(len(defective), int)
    for kind in (False, True):
        places = order[defective[order] == kind]
        turn[places] = np.arange(len(places)) % folds
    return turn


def _bank(cells: Cells, size: int, seed: int) -> Tensor:
    good = (cells.targets <= 0).flatten(1).all(1)
    return greedy_coreset(unit_cells(cells.embeddings[good], cells.valid[good]), size, seed=seed)


def _calibrate(
    config: FinderConfig, measured: Sequence[tuple[Cells, dict[str, Tensor]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Set units, threshold and probability; the scores and whether each image is defective."""
    valid = np.concatenate([cells.valid.numpy() for cells, _ in measured])
    defective = np.concatenate([(cells.targets > 0).flatten(1).any(1).numpy() for cells, _ in measured])
    standard = []
    for name in measured[0][1]:
        raw = np.concatenate([maps[name].numpy() for _, maps in measured])
        maps = np.stack([smoothed(values, inside) for values, inside in zip(raw, valid)])
        good = maps[~defective][valid[~defective]]
        config.units[name] = (float(good.mean()), float(good.std()) or 1.0)
        standard.append((maps - good.mean()) / (good.std() or 1.0))
    combined = np.mean(standard, axis=0)
    scores = np.array([found[inside].max() for found, inside in zip(combined, valid)])
    set_threshold(config, scores, defective)
    return scores, defective


def set_threshold(config: FinderConfig, scores: np.ndarray, defective: np.ndarray) -> None:
    """Set threshold and probability of a finder from the scores of photographs that it has not seen.

    The threshold is the score that a share of `false_alarm_rate` of good ones exceeds if their logarithms are normal, by
    their median and median deviation: else, of 60 good photographs, the three oddest would decide, and they may be
    defective ones that nobody marked. The probability is logistic regression's, both kinds weighing the same; without
    defective photographs it is one half at the threshold, and its slope is that of the good ones' spread.

    Args:
        scores: (N,). defective: (N,) bool.
    """
    good = scores[~defective]
    logs = np.log1p(np.maximum(good, 0))
    spread = max(median_abs_deviation(logs, scale="normal"), 1e-3)
    config.threshold = float(np.expm1(norm.ppf(1 - config.false_alarm_rate, np.median(logs), spread)))
    if defective.sum() < FEWEST_DEFECTIVE:
        config.slope = float(1 / max(good.std(), 1e-6))
        config.offset = -config.slope * config.threshold
        return
    fitted = LogisticRegression(class_weight="balanced").fit(scores[:, None], defective)
    config.slope, config.offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
