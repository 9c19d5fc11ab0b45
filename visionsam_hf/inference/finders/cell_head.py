"""A small head on frozen embeddings that says of each cell whether it shows a defect.

Two things decide how much it learns (docs/finding.md has both measured). Every defective image weighs the same, however
many cells its defects cover: else a few large stains outweigh all pinholes. And cells that a defect only touches are
left out, unless it has no others.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH = 64
_COMPONENTS = 96  # principal components of the embedding that the head sees
_SAMPLE = 20_000  # cells that they are computed from
_CLEAR = 0.25  # share of a cell that a defect covers, from which on the cell is one


class CellHead(nn.Module):
    """(N, C, h, w) embeddings to (N, h, w) logits: standardised principal components, 3 x 3 to 64, GELU, 1 x 1.

    Args:
        channels: C. components: of the embedding that are kept; at most C.
    """

    def __init__(self, channels: int, components: int = _COMPONENTS) -> None:
        super().__init__()
        components = min(channels, components)
        self.reduce = nn.Conv2d(channels, components, 1).requires_grad_(False)
        self.conv = nn.Conv2d(components, _WIDTH, 3, padding=1)
        self.drop = nn.Dropout2d(0.2)
        self.out = nn.Conv2d(_WIDTH, 1, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.classify(self.reduce(embeddings.float()))

    def classify(self, components: Tensor) -> Tensor:
        """(N, components, h, w) of `reduce` to (N, h, w) logits."""
        return self.out(self.drop(F.gelu(self.conv(components))))[:, 0]

    @torch.no_grad()
    def choose_components(self, cells: Tensor, *, seed: int) -> None:
        """Set `reduce` to the principal components of (M, C) cells, each channel standardised first."""
        sample = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:_SAMPLE]].float()
        mean, scale = sample.mean(0), sample.std(0).clamp(min=1e-6)
        standard = (sample - mean) / scale
        _, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
        weight = vectors[:, -self.reduce.out_channels :].T / scale
        self.reduce.weight.copy_(weight[:, :, None, None])
        self.reduce.bias.copy_(-weight @ mean)


@dataclass(frozen=True)
class Cells:
    """Images as the head learns them.

    Attributes:
        embeddings: (N, C, h, w).
        targets: (N, h, w) float32, the share of each cell that a defect covers.
        valid: (N, h, w) bool, False on padding.
    """

    embeddings: Tensor
    targets: Tensor
    valid: Tensor

    def select(self, places: list[int]) -> "Cells":
        """Some of the images."""
        return Cells(self.embeddings[places], self.targets[places], self.valid[places])


def cell_weights(targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(N, h, w) labels 0 or 1 and the cells' weights, whose sum is N.

    Half of the weight lies on defective cells, the same on every image that has some; half on clean ones. A cell that is
    neither (padding, or touched by a defect that covers other cells better) has none.
    """
    clear = (targets.flatten(1).amax(1) / 2).clamp(max=_CLEAR)[:, None, None]
    positive, negative = (targets > 0) & (targets >= clear) & valid, (targets <= 0) & valid
    weight = positive / positive.sum((1, 2), keepdim=True).clamp(min=1)
    weight = 0.5 * weight / weight.sum().clamp(min=1e-9) + 0.5 * negative / negative.sum().clamp(min=1)
    return positive.float(), weight * len(targets)


def head_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over images of the weighted binary cross-entropy of their cells; arguments (N, h, w)."""
    return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum() / len(logits)


def fit_head(
    train: Cells,
    held: Cells,
    *,
    epochs: int = 12,
    patience: int = 3,
    learning_rate: float = 1e-3,
    batch_size: int = 8,
    seed: int = 0,
) -> tuple[CellHead, int]:
    """Train a head; the epoch with the least loss on `held` stays.

    Args:
        train: what it learns from; needs defective images.
        held: what tells when to stop.
        epochs: at most so many over `train`, with a learning rate that falls to 0 (at least 60 steps).
        patience: epochs without a new best before it stops.
        seed: of weights, order and flips.

    Returns:
        The head, and the number of the epoch that it is from, from 1.
    """
    head = CellHead(train.embeddings.shape[1])
    head.choose_components(train.embeddings.movedim(1, -1)[train.valid], seed=seed)
    with torch.no_grad():
        seen, tested = (head.reduce(cells.embeddings.float()) for cells in (train, held))
    labels, weights = cell_weights(train.targets, train.valid)
    truth = cell_weights(held.targets, held.valid)
    generator = torch.Generator().manual_seed(seed)
    for layer in (head.conv, head.out):
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    steps = -(-len(seen) // batch_size)
    epochs = max(epochs, -(-60 // steps))
    trained = [*head.conv.parameters(), *head.out.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps)
    best, stale = (float("inf"), 0, head), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout
        for epoch in range(1, epochs + 1):
            head.train()
            for batch in torch.randperm(len(seen), generator=generator).split(batch_size):
                parts = [seen[batch], labels[batch], weights[batch]]
                for side in (-1, -2):
                    if torch.rand((), generator=generator) < 0.5:
                        parts = [part.flip(side) for part in parts]
                loss = head_loss(head.classify(parts[0]), parts[1], parts[2])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            head.eval()
            with torch.no_grad():
                loss = float(head_loss(head.classify(tested), *truth))
            best, stale = ((loss, epoch, copy.deepcopy(head)), 0) if loss < best[0] else (best, stale + 1)
            if stale == patience:
                break
    return best[2], best[1]
