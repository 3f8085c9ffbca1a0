"""The results of an op's case: by fastdarts and by eager PyTorch, both held against float64."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.cases import FlatCase, MixedOpCase, MixedSumCase, RecurrentCase
from fastdarts.bench.check import Deviation

Case = MixedSumCase | MixedOpCase | RecurrentCase


def deviations(case: Case, impl: str | None, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """Output, every gradient and the statistics against the eager modules in float64."""
    return deviations_of(_results(case, impl, dtype, device, eager=False), case, dtype, device)


def deviations_of(ours: dict[str, Tensor], case: Case, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """The same of results that were computed elsewhere, by name and in float64."""
    eps = torch.finfo(dtype).eps
    truth = _results(case, None, torch.float64, "cpu", eager=True)
    eager = _results(case, None, dtype, device, eager=True)

    def scale(name: str, exact: Tensor) -> float:
        if name.startswith("mean"):  # the rounding unit of a mean is that of the values, not of what is left of them
            exact = (exact.square() + truth[name.replace("mean", "var")]).sqrt()
        if name.endswith(".weight") and exact.numel() == 1:
            # BatchNorm undoes a scale, so the gradient of a single 1x1 weight is zero: what is left of its terms,
            # which are as large as those of the depthwise weights.
            exact = torch.cat([t.flatten() for other, t in truth.items() if other.endswith(".weight")])
        return exact.abs().max().item()

    return [
        Deviation(name, _distance(ours[name], exact), _distance(eager[name], exact), eps * scale(name, exact))
        for name, exact in truth.items()
    ]


def worst_deviations(case: RecurrentCase, impl: str | None, dtype: torch.dtype, draws: int = 3) -> list[Deviation]:
    """The largest of :func:`deviations` over a few draws: what one cell of few streams rounds by is luck."""
    drawn = [deviations(replace(case, seed=seed), impl, dtype) for seed in range(draws)]
    return [
        Deviation(same[0].name, *(max(getattr(d, part) for d in same) for part in ("ours", "eager", "ulp")))
        for same in zip(*drawn, strict=True)
    ]


def flat_deviations(case: FlatCase, ours: Callable, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """What ``ours(tensors)`` computes against eager PyTorch in float64, from the same rounded values."""
    tensors = case.inputs(dtype, device)
    truth = case.eager({name: t.double() for name, t in tensors.items()})
    eager, found = case.eager(tensors), ours(tensors)
    assert found.keys() == truth.keys()
    return [
        Deviation(
            name,
            _distance(found[name].double(), exact),
            _distance(eager[name].double(), exact),
            torch.finfo(dtype).eps * exact.abs().max().item(),
        )
        for name, exact in truth.items()
    ]


def _results(case: Case, impl: str | None, dtype: torch.dtype, device: str, *, eager: bool) -> dict[str, Tensor]:
    if isinstance(case, MixedOpCase):
        tensors, grads = case.inputs(dtype, device)
        out, mean, var, _ = case.eager(tensors) if eager else case.ours(tensors, impl)
        gradients = torch.autograd.grad(out, [*tensors.values()], grads, materialize_grads=True)
        results = {f"grad_{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
        results |= {f"out{e}": out_e for e, out_e in enumerate(out)}
        results |= {f"mean{r}": row for r, row in enumerate(mean)} | {f"var{r}": row for r, row in enumerate(var)}
        return {name: result.detach().double().cpu() for name, result in results.items()}
    if isinstance(case, RecurrentCase):
        tensors, mask, grad = case.inputs(dtype, device)
        out, mean, var = case.eager(tensors, mask) if eager else case.ours(tensors, mask, impl)
        results = {"out": out, "mean": mean, "var": var}
        results |= dict(zip(tensors, torch.autograd.grad(out, [*tensors.values()], grad), strict=True))
        return {name: result.detach().double().cpu() for name, result in results.items()}
    weights, branches, grad = case.inputs(dtype, device)
    if eager:
        modules = case.eager(dtype, device)
        out = modules(weights, branches)
        mean = [norm.running_mean for norm in modules.norms]
        var = [norm.running_var for norm in modules.norms]
    else:
        out, mean, var = case.ours(weights, branches, impl)
    gradients = torch.autograd.grad(out, (weights, *branches), grad)
    results = {"out": out, "grad_weights": gradients[0]}
    results |= {f"grad_z{k}": gradient for k, gradient in enumerate(gradients[1:])}
    results |= {f"mean{k}": row for k, row in enumerate(mean)} | {f"var{k}": row for k, row in enumerate(var)}
    return {name: result.detach().double().cpu() for name, result in results.items()}


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.isfinite().all() else float("inf")
