"""Density of appearance codes, against scipy's normal distribution."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks.code_density import COMPONENTS, PER_CLUSTER, USUAL, CodeDensity


def normal_codes(count: int, length: int, seed: int = 0) -> Tensor:
    """Draw correlated codes (count,length) around a mean far from 0."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(length, length, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(count, length, generator=random, dtype=torch.float64) @ mixing + 3.0


def fit(codes: Tensor) -> CodeDensity:
    """Fit the density of one blob that is always visible."""
    return CodeDensity.fit(codes[:, None], torch.ones(len(codes), 1, dtype=torch.bool), [0])


def energies(density: CodeDensity, codes: Tensor) -> np.ndarray:
    return density.energy(codes[:, None].float())[:, 0].double().numpy()


def constant(covariance: np.ndarray) -> float:
    """Return the logarithm of the normal distribution's constant, which energies leave out."""
    return np.linalg.slogdet(2 * np.pi * covariance)[1] / 2


def test_one_cluster_is_a_normal_distribution() -> None:
    """All components but one are kept, so that the covariance is that of the codes."""
    length = 6
    codes, others = normal_codes(2 * PER_CLUSTER - 1, length), normal_codes(50, length, seed=1)
    covariance = np.cov(codes.numpy(), rowvar=False, bias=True)
    logs = multivariate_normal(codes.mean(0).numpy(), covariance).logpdf(others.numpy()) + constant(covariance)
    np.testing.assert_allclose(energies(fit(codes), others), -logs / length, rtol=1e-3)


def test_components_that_are_not_kept_share_their_variance() -> None:
    """Probabilistic principal components (Tipping & Bishop 1999, equations 7 and 8), from the eigenvalues."""
    length, count = 12, 2 * PER_CLUSTER - 1
    codes, others = normal_codes(count, length), normal_codes(50, length, seed=1)
    values, axes = np.linalg.eigh(np.cov(codes.numpy(), rowvar=False, bias=True))
    kept = count // 4
    assert kept < min(length - 1, COMPONENTS)
    values[: length - kept] = values[: length - kept].mean()
    covariance = axes * values @ axes.T
    logs = multivariate_normal(codes.mean(0).numpy(), covariance).logpdf(others.numpy()) + constant(covariance)
    np.testing.assert_allclose(energies(fit(codes), others), -logs / length, rtol=1e-3)


def test_two_clusters_are_a_mixture() -> None:
    """Clusters far apart share the covariance of their residuals, and are weighted by their sizes."""
    length, sizes = 4, (30, 15)  # 45 codes: two clusters
    parts = [normal_codes(size, length, seed) + 60 * seed for seed, size in enumerate(sizes)]
    codes, others = torch.cat(parts), normal_codes(40, length, seed=5)
    others[20:] += 60
    others[:10] += 30  # between them
    residuals = torch.cat([part - part.mean(0) for part in parts])
    covariance = (residuals.T @ residuals / len(codes)).numpy()
    logs = [
        np.log(len(part) / len(codes)) + multivariate_normal(part.mean(0).numpy(), covariance).logpdf(others.numpy())
        for part in parts
    ]
    expected = -(logsumexp(logs, axis=0) + constant(covariance)) / length
    np.testing.assert_allclose(energies(fit(codes), others), expected, rtol=1e-3, atol=1e-4)


def test_usual_is_what_most_training_codes_are() -> None:
    codes = normal_codes(400, 8)
    density = fit(codes)
    assert density.usual.item() == pytest.approx(np.quantile(energies(density, codes), USUAL), rel=1e-4)
    excess = density.excess(codes[:, None].float())[:, 0]
    assert (excess == 0).double().mean().item() == pytest.approx(USUAL, abs=0.003) and excess.max() > 0


def test_codes_of_the_distribution_are_usual_and_far_ones_are_not() -> None:
    density = fit(normal_codes(600, 8))
    fresh = normal_codes(1000, 8, seed=3)
    excess = density.excess(fresh[:, None].float())[:, 0]
    assert (excess == 0).double().mean() > 0.9 and excess.quantile(0.99) < 1
    centre, far = fresh.mean(0), []
    for factor in (4.0, 8.0, 16.0):
        distant = density.excess((centre + factor * (fresh[:100] - centre))[:, None].float())[:, 0]
        far.append(distant.median().item())
    assert 1 < far[0] < far[1] < far[2] and far[2] == pytest.approx(4 * far[1], rel=0.2)  # squared distance


def test_excess_leads_back_to_usual_codes() -> None:
    density = fit(normal_codes(200, 8))
    code = (normal_codes(5, 8, seed=2) * 3 - 5).float()[:, None].requires_grad_()
    start = density.excess(code).detach()
    assert (start > 0).all()
    (gradient,) = torch.autograd.grad(density.excess(code).sum(), code)
    step = 0.1 * start[..., None] / gradient.square().sum(2, keepdim=True)  # first order: a tenth less
    after = density.excess(code.detach() - step * gradient)
    torch.testing.assert_close(after, 0.9 * start, rtol=0.05, atol=0)


def test_a_group_with_few_codes_is_never_unusual() -> None:
    codes = torch.stack([normal_codes(100, 5), normal_codes(100, 5, seed=1)], 1)
    present = torch.ones(100, 2, dtype=torch.bool)
    present[PER_CLUSTER - 1 :, 1] = False
    density = CodeDensity.fit(codes, present, [0, 1])
    far = torch.full((3, 2, 5), 1e3, requires_grad=True)
    excess = density.excess(far)
    assert density.usual.isinf().tolist() == [False, True]
    assert (excess[:, 0] > 0).all() and (excess[:, 1] == 0).all()
    (gradient,) = torch.autograd.grad(excess.sum(), far)
    assert gradient.isfinite().all() and gradient[:, 0].any() and not gradient[:, 1].any()


def test_alike_blobs_share_the_density_of_their_visible_codes() -> None:
    codes = torch.stack([normal_codes(90, 5, seed) for seed in range(3)], 1)
    present = torch.rand(90, 3, generator=torch.Generator().manual_seed(4)) < 0.7
    hidden = torch.where(present[..., None], codes, 1e6)  # codes of absent blobs are not read
    density = CodeDensity.fit(hidden, present, [-1, 7, 7])
    for part in vars(density).values():
        assert torch.equal(part[1], part[2]) and not torch.equal(part[0], part[1])
    alone = fit(codes[:, 0][present[:, 0]])
    for name, part in vars(alone).items():
        torch.testing.assert_close(getattr(density, name)[:1], part)


def test_equal_codes_are_usual_and_others_are_not() -> None:
    """Codes that are all the same have a covariance of 0, and one cluster."""
    code = torch.ones(50, 4, dtype=torch.float64)
    density = fit(code)
    found = density.excess(torch.stack([code[:1], code[:1] + 0.5]).float())
    assert all(part.isfinite().all() for part in (density.means, density.whitening, density.usual))
    assert found[0] < 1e-6 and found[1] > 1


def test_rows_do_not_depend_on_their_batch() -> None:
    density, codes = fit(normal_codes(100, 8)), normal_codes(40, 8, seed=6)[:, None].float()
    whole = density.energy(codes)
    for row in (0, 7, 39):
        torch.testing.assert_close(density.energy(codes[[row]])[0], whole[row])


def test_codes_that_are_not_finite_are_refused() -> None:
    codes = normal_codes(30, 4)
    codes[3, 1] = float("nan")
    with pytest.raises(BlobexError, match="dvc repro blobgan_pretrain"):
        fit(codes)
