"""
Dense double-precision oracles: slow, explicit, and without a line of the package.

Nothing is imported from ``sb3_trpo_fvp``. Jacobians are taken one output of one state at a time, and matrices are formed
in NumPy from textbook formulas in another parametrisation than the package's: (μ, log σ) for normals, the
probabilities themselves for categoricals and Bernoullis.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

Array = np.ndarray[Any, np.dtype[np.float64]]


def actor_parameters(policy: ActorCriticPolicy) -> dict[str, nn.Parameter]:
    """Trainable parameters that move the action distribution, found by differentiating it."""
    named = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
    outputs = th.cat([tensor.flatten() for tensor in _statistics(policy, _zero_observation(policy))]).sum()
    gradients = th.autograd.grad(outputs, [parameter for _, parameter in named], allow_unused=True)
    return {name: parameter for (name, parameter), gradient in zip(named, gradients, strict=True) if gradient is not None}


def _zero_observation(policy: ActorCriticPolicy) -> th.Tensor:
    return th.zeros(2, *policy.observation_space.shape)


def _statistics(policy: ActorCriticPolicy, observations: th.Tensor) -> list[th.Tensor]:
    """Per factor of the action: (mean, log std), probabilities of a category, or probability of a one."""
    distribution = policy.get_distribution(observations).distribution
    if isinstance(distribution, th.distributions.Normal):
        return [distribution.mean, distribution.stddev.log()]
    if isinstance(distribution, list):
        return [factor.probs for factor in distribution]
    return [distribution.probs]


@th.no_grad()
def distributions(policy: ActorCriticPolicy, observations: Any) -> list[th.distributions.Distribution]:
    """The policy's action distribution now, as independent torch distributions in double precision."""
    policy.set_training_mode(False)
    inner = policy.get_distribution(observations).distribution
    copies: list[th.distributions.Distribution] = []
    for factor in inner if isinstance(inner, list) else [inner]:
        if isinstance(factor, th.distributions.Normal):
            copies.append(th.distributions.Normal(factor.loc.double(), factor.scale.double()))
        else:
            copies.append(type(factor)(logits=factor.logits.double()))
    return copies


def joint_kl(old: list[th.distributions.Distribution], new: list[th.distributions.Distribution]) -> float:
    """Mean over the states of KL(old ‖ new), summed over whatever the action consists of."""
    return float(np.mean(sum(_kl(p, q).reshape(len(_kl(p, q)), -1).sum(1) for p, q in zip(old, new, strict=True))))


def _kl(p: Any, q: Any) -> np.ndarray:
    """By the textbook; torch's own calls a KL infinite where a probability of q underflows, however seldom p goes there."""
    if isinstance(p, th.distributions.Normal):
        (m, s), (n, t) = ((d.loc.numpy(), d.scale.numpy()) for d in (p, q))
        return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    logits = [d.logits.numpy() for d in (p, q)]
    if isinstance(p, th.distributions.Bernoulli):
        logits = [np.stack([z, np.zeros_like(z)], -1) for z in logits]
    log_p, log_q = (z - np.logaddexp.reduce(z, -1, keepdims=True) for z in logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def _values(policy: ActorCriticPolicy, observations: th.Tensor) -> tuple[str, list[Array]]:
    """Means and standard deviations, or probabilities, of a policy as it is now."""
    with th.no_grad():
        distribution = policy.get_distribution(observations).distribution
        if isinstance(distribution, th.distributions.Normal):
            return "normal", [_numpy(distribution.mean), _numpy(distribution.stddev)]
        if isinstance(distribution, th.distributions.Bernoulli):
            return "bernoulli", [_numpy(distribution.probs)]
        factors = distribution if isinstance(distribution, list) else [distribution]
        return "categorical", [_numpy(factor.probs) for factor in factors]


def jacobians(policy: ActorCriticPolicy, observations: th.Tensor, parameters: Sequence[nn.Parameter]) -> list[Array]:
    """For each tensor of statistics its derivative in the parameters, (N, K, P), by one backward pass for each number."""
    result = []
    for statistic in _statistics(policy, observations):
        rows = [
            th.cat([gradient.flatten() for gradient in _gradient(number, parameters)]).double().numpy()
            for number in statistic.flatten()
        ]
        result.append(np.stack(rows).reshape(*statistic.shape, -1))
    return result


def _gradient(number: th.Tensor, parameters: Sequence[nn.Parameter]) -> list[th.Tensor]:
    if not number.requires_grad:
        return [th.zeros_like(parameter) for parameter in parameters]
    gradients = th.autograd.grad(number, parameters, retain_graph=True, allow_unused=True)
    return [
        th.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]


def fisher(policy: ActorCriticPolicy, observations: th.Tensor, parameters: Sequence[nn.Parameter]) -> Array:
    """E_s[Jᵀ M J], state by state: M = diag(1/σ², 2) in (μ, log σ), diag(1/p), or diag(1/(p(1 − p)))."""
    kind, values = _values(policy, observations)
    jacobian = jacobians(policy, observations, parameters)
    if kind == "normal":
        weights = [1.0 / values[1] ** 2, np.full_like(values[1], 2.0)]
    elif kind == "bernoulli":
        weights = [1.0 / (values[0] * (1.0 - values[0]))]
    else:
        weights = [1.0 / p for p in values]
    size = jacobian[0].shape[-1]
    total = np.zeros((size, size))
    for state in range(len(observations)):
        for j, m in zip(jacobian, weights, strict=True):
            total += j[state].T @ np.diag(m[state]) @ j[state]
    return total / len(observations)


def scores(
    policy: ActorCriticPolicy, observations: th.Tensor, actions: th.Tensor, parameters: Sequence[nn.Parameter]
) -> Array:
    """∇_θ log π(a|s) of every state, (N, P), from the score of the distribution in its statistics."""
    kind, values = _values(policy, observations)
    jacobian = jacobians(policy, observations, parameters)
    a = _numpy(actions)
    if kind == "normal":
        if policy.squash_output:
            a = np.arctanh(a)
        z = (a - values[0]) / values[1]
        slopes = [z / values[1], z**2 - 1.0]
    elif kind == "bernoulli":
        slopes = [a / values[0] - (1.0 - a) / (1.0 - values[0])]
    else:
        chosen = a.astype(int).T
        slopes = [np.eye(p.shape[1])[column] / p for p, column in zip(values, chosen, strict=True)]
    return sum(np.einsum("nk,nkp->np", slope, j) for slope, j in zip(slopes, jacobian, strict=True))


def empirical_fisher(
    policy: ActorCriticPolicy, observations: th.Tensor, actions: th.Tensor, parameters: Sequence[nn.Parameter]
) -> Array:
    """(1/N) Σ of the outer products of the scores, one at a time."""
    rows = scores(policy, observations, actions, parameters)
    return sum(np.outer(row, row) for row in rows) / len(rows)


def kl_hessian(policy: ActorCriticPolicy, observations: th.Tensor, parameters: Sequence[nn.Parameter]) -> Array:
    """∇²_θ of torch's own KL(old ‖ new) at new = old: the gradient, then each of its elements differentiated once more."""

    def factors() -> list[th.distributions.Distribution]:
        distribution = policy.get_distribution(observations).distribution
        return distribution if isinstance(distribution, list) else [distribution]

    with th.no_grad():
        old = factors()
    kl = sum(th.distributions.kl_divergence(p, q).sum() for p, q in zip(old, factors(), strict=True)) / len(observations)
    slope = th.autograd.grad(kl, parameters, create_graph=True)
    rows = [
        th.cat([gradient.flatten() for gradient in _gradient(number, parameters)])
        for number in th.cat([piece.flatten() for piece in slope])
    ]
    return _numpy(th.stack(rows))


def _numpy(tensor: th.Tensor) -> Array:
    return tensor.detach().double().numpy()
