"""Muon for the matrices of linear layers, AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps of equal size in all directions of a matrix (Jordan et al., 2024), where AdamW's go in a few.

    Muon is for matrices that map one representation to another; embeddings, biases, norms and convolutions keep AdamW.
    Muon's steps are scaled to the root mean square of AdamW's (Liu et al., 2025), so one learning rate serves both.

    Args:
        model: its parameters that require gradients are optimised.
        lr, weight_decay: of both.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float) -> None:
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if id(parameter) in linear]
        others = [parameter for parameter in trained if id(parameter) not in linear]
        super().__init__(trained, {"lr": lr, "weight_decay": weight_decay})
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay))
        self._share_groups()

    def _share_groups(self) -> None:
        # The same dictionaries: a scheduler that changes a learning rate here changes it there.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: the state of each part."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()
