"""The contract of a distribution family: its KL is the KL, and its Fisher matrix the Hessian of it."""

import math
from collections.abc import Callable, Iterator

import torch as th
from stable_baselines3.common.distributions import (
    Distribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)

from sb3_trpo_fvp.check.finding import Finding, judge, relative_error, skip
from sb3_trpo_fvp.check.reference import FORM_TOLERANCE, kl_curvature
from sb3_trpo_fvp.distributions import DistributionFamily, Phi, detach

_SAMPLES = 2000
_STANDARD_ERRORS = 6.0
"""By which a sampled mean may be off: once in a billion by chance."""


def check_family(
    family: DistributionFamily, build: Callable[[th.Tensor], Distribution], x: th.Tensor, *, seed: int = 0
) -> Iterator[Finding]:
    """
    Look at the promises of a :class:`~sb3_trpo_fvp.distributions.DistributionFamily`.

    >>> check_family(BernoulliFamily(), BernoulliDistribution(2).proba_distribution, th.randn(6, 2))  # doctest: +SKIP

    :param family: the family
    :param build: x → a distribution of it, for example SB3's ``proba_distribution``; it is called many times
    :param x: what the distributions are computed from, (N, K) floating point, N at least 2; taken to double precision
    :param seed: of actions and directions
    :return: one finding for each promise
    :raises ValueError: if there are fewer than 2 states
    """
    if len(x) < 2:
        msg = f"`x` must hold at least 2 states, got {len(x)}"
        raise ValueError(msg)
    with th.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        th.manual_seed(seed)
        yield from _findings(family, build, x.detach().double())


def _findings(family: DistributionFamily, build: Callable[[th.Tensor], Distribution], x: th.Tensor) -> Iterator[Finding]:
    size = len(x)

    def phi_of(x: th.Tensor) -> Phi:
        return family.parameters(build(x))

    def along(w: th.Tensor) -> Phi:
        """Jw: a direction in which φ stays what φ may be."""
        h = 1e-5
        return tuple((a - b) / (2 * h) for a, b in zip(phi_of(x + h * w), phi_of(x - h * w), strict=True))

    with th.no_grad():
        phi, kl = phi_of(x), family.kl(phi_of(x), phi_of(x.flip(0)))
        rows = [len(tensor) for tensor in phi]
        shaped = set(rows) == {size} and kl.ndim == 2 and len(kl) == size
        yield judge("shape", shaped, f"φ has {rows} rows and the KL shape {tuple(kl.shape)} in {size} states")
        if not shaped:
            return
        largest = float(family.kl(phi, phi).abs().max())
        yield judge("zero at the same φ", largest <= 1e-12, f"KL(φ ‖ φ) = {largest:.1e}")
        least = float(kl.sum(-1).min())
        yield judge("non-negative KL", least >= -1e-12, f"the smallest joint KL is {least:.1e}")
        few = slice(0, size // 2)
        alone = family.kl(tuple(p[few] for p in phi), tuple(p[few] for p in phi_of(x.flip(0))))
        error = relative_error(alone, kl[few])
        yield judge("state by state", error <= 1e-9, f"the KL of some of the states alone: relative error {error:.1e}")
        yield _against_log_prob(family, build, x)

        u, w = along(th.randn_like(x)), along(th.randn_like(x))
        multiply = family.fisher(detach(phi))
        mu, mw = multiply(u), multiply(w)
        yield judge(
            "linear Fisher matrix",
            relative_error(multiply(tuple(2.0 * a - 0.5 * b for a, b in zip(u, w, strict=True))),
                           [2.0 * a - 0.5 * b for a, b in zip(mu, mw, strict=True)]) <= 1e-8,
            "M(2u − w/2) = 2Mu − Mw/2",
        )  # fmt: skip
        asymmetry = (_dot(w, mu) - _dot(u, mw)).abs().max() / _dot(u, mu).abs().max().clamp_min(1e-300)
        yield judge("symmetric Fisher matrix", float(asymmetry) <= 1e-8, f"wᵀMu and uᵀMw differ by {float(asymmetry):.1e}")
        lowest, highest = float(_dot(u, mu).min()), float(_dot(u, mu).max())
        yield judge("semi-definite Fisher matrix", lowest >= -1e-9 * abs(highest), f"the smallest uᵀMu is {lowest:.1e}")
        worst = 0.0
        for state in range(size):
            one = slice(state, state + 1)
            curvature = kl_curvature(family, tuple(p[one] for p in phi), tuple(t[one] for t in u))
            worst = max(worst, abs(float(_dot(u, mu)[state]) - curvature) / max(abs(curvature), 1e-3 * abs(highest), 1e-300))
        why = f"uᵀMu differs from the curvature of `kl` by {worst:.1e} times that in a state"
        yield judge("Fisher matrix is the KL's Hessian", worst <= FORM_TOLERANCE, why)
    yield _score(family, build, x)


def _dot(a: Phi, b: Phi) -> th.Tensor:
    """Of each state, (N,)."""
    return th.stack([(s * t).reshape(len(s), -1).sum(1) for s, t in zip(a, b, strict=True)]).sum(0)


def _against_log_prob(family: DistributionFamily, build: Callable[[th.Tensor], Distribution], x: th.Tensor) -> Finding:
    """KL(old ‖ new) = E_old[log π_old − log π_new], in each state, by actions of the old policy."""
    expected = family.kl(family.parameters(build(x)), family.parameters(build(x.flip(0)))).sum(-1)
    many = x.repeat(_SAMPLES, *[1] * (x.ndim - 1))
    old = build(many)
    actions = sample_actions(old)
    old_log_prob = old.log_prob(actions)
    samples = (old_log_prob - build(many.view(_SAMPLES, *x.shape).flip(1).view(many.shape)).log_prob(actions)).view(
        _SAMPLES, -1
    )
    standard_error = samples.std(0) / math.sqrt(_SAMPLES)
    off = float(((samples.mean(0) - expected).abs() / (standard_error + 1e-9)).max())
    what = f"KL(old ‖ new) is {off:.1f} standard errors from the mean of log π_old − log π_new over actions of the old policy"
    return judge("KL of log_prob, old first", off <= _STANDARD_ERRORS, what)


def _score(family: DistributionFamily, build: Callable[[th.Tensor], Distribution], x: th.Tensor) -> Finding:
    """The score in φ, pulled back to x, is the gradient of log π."""
    promise = "score is the gradient of log_prob"
    with th.enable_grad():
        x = x.clone().requires_grad_()
        distribution = build(x)
        if isinstance(distribution, SquashedDiagGaussianDistribution) or getattr(distribution, "bijector", None) is not None:
            return skip(promise, "it is of the action before the bijection")
        actions = sample_actions(distribution)
        phi = family.parameters(distribution)
        score = family.score(detach(phi), actions.reshape(len(x), -1).to(phi[0].dtype))
        if score is None:
            return skip(promise, "the family has no closed form of it")
        (expected,) = th.autograd.grad(distribution.log_prob(actions).sum(), x, retain_graph=True)
        pulled = sum((p * s).sum() for p, s in zip(phi, score, strict=True) if p.requires_grad)
        (value,) = th.autograd.grad(pulled, x)  # type: ignore[arg-type]
    error = relative_error(value, expected)
    return judge(promise, error <= 1e-6, f"relative error {error:.1e}")


@th.no_grad()
def sample_actions(distribution: Distribution) -> th.Tensor:
    """
    Draw one action in each state, independently.

    :param distribution: what ``policy.get_distribution`` returns
    :return: as ``distribution.log_prob`` takes them
    """
    if isinstance(distribution, StateDependentNoiseDistribution):
        # Its sample() uses one noise matrix for all states, and a new one would be the policy's from then on.
        assert isinstance(distribution.distribution, th.distributions.Normal)
        actions: th.Tensor = distribution.distribution.sample()  # type: ignore[no-untyped-call]
        return actions if distribution.bijector is None else distribution.bijector.forward(actions)
    return distribution.get_actions()
