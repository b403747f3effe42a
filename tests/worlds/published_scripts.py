"""The published inversion and searches, written a second time: for one image, on dictionaries of tensors.

They follow METHOD.md, sections 4 and 5: means over all numbers of a key, entry 0 of the sizes included; binary
cross-entropy on probabilities; torch's Adam with a learning rate per key.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Blobs = dict[str, Tensor]  # the six tensors of one image
ALL_KEYS = ("xs", "ys", "sizes", "covs", "features", "spatial_style")


def free(blobs: Blobs) -> Blobs:
    return {key: tensor.clone().requires_grad_() for key, tensor in blobs.items()}


def adam(leaves: Blobs, keys: Sequence[str], rate: float, size_rate: float) -> torch.optim.Adam:
    groups = [{"params": [leaves[key]], "lr": size_rate if key == "sizes" else rate} for key in keys]
    return torch.optim.Adam(groups)


def inversion(
    query: Tensor,
    encoded: Blobs,
    generate: Callable[[Blobs], Tensor],
    lpips: Callable[[Tensor, Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    steps: int,
) -> tuple[Blobs, list[float]]:
    """Return the blobs after all steps, and the loss before each step."""
    leaves, losses = free(encoded), []
    optimiser = adam(leaves, ALL_KEYS, 0.02, 0.04)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=100, gamma=0.5)
    for _ in range(steps):
        image = generate(leaves)
        loss = lpips(image, query).sum() + 0.1 * ((image - query) ** 2).mean()
        loss = loss + 0.1 * nn.MSELoss()(features(image), features(query).detach())
        loss = loss + 0.1 * sum(nn.MSELoss()(leaves[key], encoded[key]) for key in ALL_KEYS)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {key: leaf.detach() for key, leaf in leaves.items()}, losses


# Learning rate of the sizes, steps, lambda_prox, and lambda of xs and ys, sizes and covs, features and style.
SCRIPTS = {
    "basic": (0.08, 200, 0.1, 6, 1, 20),
    "targeted": (0.08, 100, 0.01, 6, 1, 20),
    "diverse": (0.06, 200, 0.5, 10, 1, 10),
}


def lambdas(place: float, shape: float, look: float) -> dict[str, float]:
    return {"xs": place, "ys": place, "sizes": shape, "covs": shape, "features": look, "spatial_style": look}


def flip_loss(probability: Tensor, target: float) -> Tensor:
    return -(1 - target) * torch.log(1 - probability) - target * torch.log(probability)


def target_of(
    blobs: Blobs, generate: Callable[[Blobs], Tensor], decide: Callable[[Tensor], Tensor], output: int
) -> float:
    """Return the probability to reach: that of the reconstruction, turned over."""
    with torch.no_grad():
        return float(decide(generate(blobs)).sigmoid()[0, output] < 0.5)


def search(
    script: str,
    blobs: Blobs,
    generate: Callable[[Blobs], Tensor],
    decide: Callable[[Tensor], Tensor],
    output: int,
    chosen: Sequence[int] | None = None,
    steps: int | None = None,
) -> tuple[Blobs, list[float]]:
    """Return the blobs after all steps of basic or targeted, and the losses. `chosen`: blobs that may change."""
    size_rate, default, price, *weights = SCRIPTS[script]
    keys = ("spatial_style",) if script == "targeted" else ALL_KEYS
    leaves, losses, target = free(blobs), [], target_of(blobs, generate, decide, output)
    optimiser, weight = adam(leaves, keys, size_rate / 8, size_rate), lambdas(*weights)

    def current() -> Blobs:
        now = {key: leaves[key] if key in keys else blobs[key] for key in ALL_KEYS}
        if chosen is None:
            return now
        return {key: only_blobs(blobs[key], tensor, chosen, key) for key, tensor in now.items()}

    for _ in range(default if steps is None else steps):
        now = current()
        loss = flip_loss(decide(generate(now)).sigmoid()[0, output], target)
        loss = loss + price * sum(weight[key] * nn.L1Loss()(now[key], blobs[key]) for key in ALL_KEYS)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {key: tensor.detach() for key, tensor in current().items()}, losses


def only_blobs(before: Tensor, after: Tensor, chosen: Sequence[int], key: str) -> Tensor:
    """Return `before` with the entries of some blobs from `after`; blob k is entry k+1 where there is a background."""
    entries = [blob if key in ("xs", "ys", "covs") else blob + 1 for blob in chosen]
    result = before.clone()
    result[:, entries] = after[:, entries]
    return result


def diverse(
    blobs: Blobs,
    generate: Callable[[Blobs], Tensor],
    decide: Callable[[Tensor], Tensor],
    output: int,
    assignment: Tensor,
    steps: int | None = None,
) -> tuple[Blobs, Tensor, list[float]]:
    """Return the layouts (k,...) after all steps, A (k,K+1), and the losses; `assignment` (k,K+1) is the first B."""
    size_rate, default, price, *weights = SCRIPTS["diverse"]
    count, weight, target = len(assignment), lambdas(*weights), target_of(blobs, generate, decide, output)
    start = {key: torch.cat([tensor] * count) for key, tensor in blobs.items()}
    leaves, losses, assignment = free(start), [], assignment.clone().requires_grad_()
    optimiser = adam(leaves, ALL_KEYS, size_rate / 8, size_rate)
    optimiser.add_param_group({"params": [assignment], "lr": size_rate})

    def current() -> tuple[Blobs, Tensor]:
        shares, now = torch.softmax(assignment, dim=0), {}
        for key in ALL_KEYS:
            own = shares[:, 1:] if key in ("xs", "ys", "covs") else shares
            own = own[..., None] if start[key].ndim == 3 else own
            now[key] = start[key] + own * (leaves[key] - start[key])
        return now, shares

    for _ in range(default if steps is None else steps):
        now, shares = current()
        loss = flip_loss(decide(generate(now)).sigmoid()[:, output], target).mean()
        loss = loss + price * sum(weight[key] * nn.L1Loss()(now[key], start[key]) for key in ALL_KEYS)
        loss = loss + 0.4 * -(shares * torch.log(shares)).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    now, shares = current()
    return {key: tensor.detach() for key, tensor in now.items()}, shares.detach(), losses
