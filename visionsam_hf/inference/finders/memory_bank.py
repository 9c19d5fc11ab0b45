"""A memory of good parts: how far is each cell of an embedding from the nearest one that was ever good?

The idea is PatchCore's (K. Roth et al., CVPR 2022): cells of good photographs, thinned out by a greedy coreset, and the
distance to the nearest of them. Here the cells are those of SAM's own embedding, which is cached anyway, scaled to
length 1. One neighbour finds more than three do, and a coreset more than as many cells drawn by lot (docs/finding.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_PROJECTED = 32  # dimensions in which the coreset measures: distances are kept to some percent, in an eighth of the time


def unit_cells(embeddings: Tensor, valid: Tensor) -> Tensor:
    """(M, C) float32 cells of (N, C, h, w) embeddings, each of length 1, where (N, h, w) bool `valid` is true."""
    return F.normalize(embeddings.float().movedim(1, -1)[valid], dim=1)


def greedy_coreset(cells: Tensor, size: int, *, seed: int = 0) -> Tensor:
    """(size, C) of (M, C) cells: one after the other the cell that is farthest from those already taken (k-centre).

    Distances are measured after a random projection (Johnson and Lindenstrauss). All cells if there are no more.

    Args:
        cells: (M, C) float32.
        size: how many to keep.
        seed: of the projection.
    """
    if len(cells) <= size:
        return cells
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(cells.shape[1], _PROJECTED, generator=generator) / _PROJECTED**0.5
    points = cells @ projection
    lengths = (points**2).sum(1)
    nearest = ((points - points.mean(0)) ** 2).sum(1)
    taken = torch.empty(size, dtype=torch.long)
    for place in range(size):
        taken[place] = farthest = int(nearest.argmax())
        nearest = torch.minimum(nearest, lengths + lengths[farthest] - 2 * (points @ points[farthest]))
        nearest[farthest] = -torch.inf
    return cells[taken]


def bank_distance(bank: Tensor, embedding: Tensor) -> Tensor:
    """(h, w) float32 cosine distance of each cell of a (C, h, w) embedding to the nearest of a (size, C) bank."""
    cells = F.normalize(embedding.float().flatten(1), dim=0)
    return (1 - (bank @ cells).amax(0)).reshape(embedding.shape[1:])
