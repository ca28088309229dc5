"""Optimisers and weight averages of the three trainings."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def _orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices (n, rows, columns) by five Newton-Schulz steps (K. Jordan, Muon, 2024)."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).type_as(matrices)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised steps for matrices, and for convolution kernels as matrices.

    PyTorch's own Muon takes only matrices, one at a time. Here all of one shape go together.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape[0], parameter[0].numel()].append(parameter)
            for (rows, columns), parameters in shapes.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in parameters]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, means, group["momentum"])
                steps = _orthogonal(torch.stack([a.reshape(rows, columns) for a in ahead]))
                # Scaled to the size of an Adam step (arXiv 2502.16982).
                steps = steps * (0.2 * max(rows, columns) ** 0.5)
                torch._foreach_add_(
                    parameters, [s.view_as(p) for s, p in zip(steps, parameters, strict=True)], alpha=-group["lr"]
                )


class Trainer:
    """Takes optimiser steps on a cosine over a time budget, and keeps a running average of the weights.

    Args:
        models: the modules trained, by name.
        lr: peak learning rate of AdamW. Muon steps the parameters that `is_muon` chooses, at `muon_lr`.
        seconds: the budget. The learning rate follows the share of it that is spent.
        average: decay of the running average.
    """

    def __init__(
        self,
        models: dict[str, nn.Module],
        lr: float,
        seconds: float,
        average: float,
        weight_decay: float = 0.0,
        muon_lr: float = 0.0,
        is_muon: Callable[[str, Tensor], bool] = lambda _name, _tensor: False,
        max_steps: int = 10**9,
        warmup_steps: int = 100,
    ) -> None:
        named = [
            (f"{m}.{n}", p) for m, module in models.items() for n, p in module.named_parameters() if p.requires_grad
        ]
        adam = [(n, p) for n, p in named if not is_muon(n, p)]
        groups = [
            {"params": [p for _, p in adam if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for _, p in adam if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.models = models
        self.parameters = [p for _, p in named]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=self.parameters[0].is_cuda), lr)
        ]
        muon = [p for n, p in named if is_muon(n, p)]
        if muon:
            self.optimizers.append((Muon(muon, muon_lr), muon_lr))
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay, self.max_steps, self.warmup_steps = average, max_steps, warmup_steps
        self.seconds, self.started_s = seconds, time.monotonic()
        self.steps = 0

    @property
    def spent(self) -> float:
        """The share of the budget that is spent, in seconds or in steps."""
        return max((time.monotonic() - self.started_s) / self.seconds, self.steps / self.max_steps)

    def step(self, loss: Tensor) -> Tensor:
        """One step down the loss; returns the gradient's norm. Gradients that are not finite count as 0."""
        self.clear()
        loss.backward()
        return self.update()

    def clear(self) -> None:
        """Forget the gradients."""
        for optimizer, _ in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def update(self) -> Tensor:
        """One step along the gradients that are there; returns their norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for gradient in (p.grad for p in self.parameters if p.grad is not None):
            # A gradient that is not finite becomes 0. Asking whether it is finite would wait for the GPU.
            torch.nan_to_num_(gradient, 0.0, 0.0, 0.0)
        factor = min(1.0, (self.steps + 1) / self.warmup_steps) * (
            0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, self.spent)))
        )
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their running average."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            weights = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weights)
