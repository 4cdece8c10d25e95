"""The contract of a Fisher operator: a symmetric semi-definite matrix, a mean over states, the same however it is computed."""

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_trpo_fvp.check.contracts.policy_copy import copy_policy
from sb3_trpo_fvp.check.finding import Finding, Outcome, judge, relative_error, skip, tolerance
from sb3_trpo_fvp.check.measure import TOLERANCE, OperatorReport, measure_operator
from sb3_trpo_fvp.check.reference import find_reference
from sb3_trpo_fvp.fisher import FISHER_OPERATORS, FisherOperator, GaussNewton, KLHessian, fisher_class, fisher_operator
from sb3_trpo_fvp.policies import index_observations, num_observations

Build: TypeAlias = Callable[..., FisherOperator]
"""(policy, observations, actions) → the operator."""

_FEW = 64
"""States on which operators are built once more: a promise broken there is broken."""


def check_fisher_operator(
    fisher: str | type[FisherOperator],
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor | None = None,
    *,
    lanczos_steps: int = 20,
    seed: int = 0,
    **kwargs: Any,
) -> Iterator[Finding]:
    """
    Look at the promises of a :class:`~sb3_trpo_fvp.fisher.FisherOperator` on a policy's own states.

    :param fisher: what ``TRPO(..., fisher=...)`` takes
    :param policy: any SB3 actor-critic policy
    :param observations: N states
    :param actions: taken there, (N, A) as rollout buffers hold them
    :param lanczos_steps: products spent on the smallest eigenvalue
    :param seed: of the random vectors
    :param kwargs: further arguments of the operator, as ``fisher_kwargs``
    :return: one finding for each promise
    :raises ValueError: if the operator cannot be built at all
    """
    build: Build = partial(fisher_operator, kind=fisher, **kwargs)
    operator = build(policy, observations, actions)
    generator = th.Generator(operator.device).manual_seed(seed)
    size = operator.shape[0]
    vectors = [th.randn(size, generator=generator, dtype=operator.dtype, device=operator.device) for _ in range(3)]
    exact: dict[str, FisherOperator] = {}
    for kind in (KLHessian.name, GaussNewton.name):
        with suppress(ValueError):  # what is described by log_prob alone has no KL to differentiate
            exact[kind] = fisher_operator(policy, observations, kind=kind)
    reference = exact.get(find_reference(exact, vectors[0]).name)
    expected = None if reference is None else [reference.matvec(v) for v in vectors]
    name = operator_name(fisher_class(fisher))
    data = policy, observations, actions
    yield from examine(name, operator, build, *data, vectors, expected, lanczos_steps).findings


def operator_name(cls: type[FisherOperator]) -> str:
    """
    Say what a report calls an operator.

    :param cls: its class
    :return: what ``fisher=`` calls it, or the class's name, for a subclass of one of the package's too
    """
    return cls.name if FISHER_OPERATORS.get(cls.name) is cls else cls.__name__


def examine(
    name: str,
    operator: FisherOperator,
    build: Build,
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor | None,
    vectors: list[th.Tensor],
    expected: list[th.Tensor] | None,
    lanczos_steps: int,
) -> OperatorReport:
    """
    Measure an operator and look at all of its promises.

    :param name: what to call it
    :param operator: the operator
    :param build: builds it
    :param policy: the policy
    :param observations: N states
    :param actions: taken there, or None
    :param vectors: at least 2 to multiply, each (P,)
    :param expected: their products with the exact Fisher matrix, None if it is not known
    :param lanczos_steps: products spent on the smallest eigenvalue
    :return: what was measured, with its findings
    """
    state = _state_of(policy)
    findings = [_shape(operator, vectors[0])]
    report = OperatorReport(name, is_exact=operator.is_exact)
    if findings[0].outcome is Outcome.KEPT:
        report = measure_operator(name, operator, vectors, expected, lanczos_steps)
        findings += measured_findings(report)
        if report.is_finite:  # nothing can be compared otherwise
            findings += product_findings(operator, vectors[0], vectors[1])
            findings += construction_findings(build, operator, policy, observations, actions, vectors[0])
    kept = _same(state, _state_of(policy))
    findings.append(judge("policy and random state kept", kept, "parameters, buffers, modes and generators stay as they are"))
    return replace(report, findings=tuple(findings))


def _shape(operator: FisherOperator, u: th.Tensor) -> Finding:
    product = operator.matvec(u.clone())
    size = sum(parameter.numel() for parameter in operator.parameters)
    right = operator.shape == (size, size) and product.shape == u.shape
    right = right and product.dtype is u.dtype and product.device == u.device
    what = f"P = {size}, operator.shape = {operator.shape}, a product has {tuple(product.shape)} and {product.dtype}"
    return judge("shape", right, what)


def product_findings(operator: FisherOperator, u: th.Tensor, v: th.Tensor) -> Iterator[Finding]:
    """
    Look at what every product must be, whatever the matrix.

    :param operator: F
    :param u: a random vector, (P,)
    :param v: another
    :return: findings
    """
    given = u.clone()
    fu = operator.matvec(u)
    kept = fu.clone()
    yield judge("vector kept", bool(th.equal(u, given)), "`v` must not be changed by `matvec(v)`")
    fv, most = operator.matvec(v).clone(), tolerance(u.dtype)
    again = relative_error(operator.matvec(given), kept)
    yield judge("repeatability", again <= most, f"the same product differs by {again:.1e} when repeated")
    error = relative_error(operator.matvec(2.0 * given - 0.5 * v), 2.0 * kept - 0.5 * fv)
    yield judge("product kept", bool(th.equal(fu, kept)), "a later product must not overwrite an earlier one")
    yield judge("linearity", error <= most, f"F(2u − v/2) and 2Fu − Fv/2 differ by {error:.1e}")


def measured_findings(report: OperatorReport) -> Iterator[Finding]:
    """
    Read findings off what was measured.

    :param report: of :func:`~sb3_trpo_fvp.check.measure.measure_operator`
    :return: findings
    """
    finite = report.is_finite
    why = "NaN or infinity in its products: the policy is close to deterministic or its weights are huge"
    yield judge("finite", finite, "" if finite else why)
    if finite:
        yield judge(
            "symmetry", report.is_symmetric, f"F − Fᵀ is {report.asymmetry:.1e} times F: conjugate gradients need F = Fᵀ"
        )
        why = f"the eigenvalues reach from {report.smallest_ritz:.1e} or below to {report.largest_ritz:.1e} or above"
        yield judge("semi-definiteness", report.is_semidefinite, why)
    promise = "equal to the Fisher matrix"
    numbers = f"cosine {report.cosine:.4f}, relative error {report.relative_error:.1e}"
    if math.isnan(report.relative_error):
        yield skip(promise, "the Fisher matrix is not known or not finite")
    elif not report.is_exact:
        yield skip(promise, f"it says `is_exact = False`; {numbers}")
    else:
        yield judge(promise, report.relative_error <= TOLERANCE, f"{numbers}; an approximation says `is_exact = False`")


def construction_findings(
    build: Build,
    operator: FisherOperator,
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor | None,
    v: th.Tensor,
) -> Iterator[Finding]:
    """
    Build the operator on some of the states in several ways, and compare the products.

    :param build: builds it
    :param operator: what it built from the arguments below
    :param policy: the policy
    :param observations: N states
    :param actions: taken there, or None
    :param v: a random vector, (P,)
    :return: findings
    """
    observations = as_tensors(observations, policy.device)
    actions = None if actions is None else th.as_tensor(actions, device=policy.device)
    count = min(num_observations(observations), _FEW)

    def some(rows: slice | th.Tensor) -> tuple[PyTorchObs, th.Tensor | None]:
        return index_observations(observations, rows), None if actions is None else actions[rows]

    few = slice(count)
    expected, most = build(policy, *some(few)).matvec(v), tolerance(v.dtype)
    twice = build(policy, *some(th.arange(2 * count, device=v.device) % count)).matvec(v)
    error = relative_error(twice, expected)
    # An approximation may draw samples of its own, which differ; a sum where a mean is meant is off by 1.
    yield judge("mean over states", error <= (most if operator.is_exact else 0.5), f"states taken twice: off by {error:.1e}")
    if operator.is_exact and count > 1:
        half = count // 2
        parts = [build(policy, *some(slice(half))).matvec(v) * half, build(policy, *some(slice(half, count))).matvec(v)]
        error = relative_error((parts[0] + parts[1] * (count - half)) / count, expected)
        yield judge(
            "state by state", error <= most, f"the mean of the products of two halves of the states: off by {error:.1e}"
        )
    yield _chunks(build, policy, some(few), v, expected)
    other = th.float32 if v.dtype is th.float64 else th.float64
    yield _elsewhere("dtype", build, policy, some(few), v, expected, other, v.device)
    if v.device.type == "cpu" and not th.cuda.is_available():
        yield skip("device", "there is no CUDA device here")
    else:
        yield _elsewhere("device", build, policy, some(few), v, expected, v.dtype, "cuda" if v.device.type == "cpu" else "cpu")


def as_tensors(observations: Any, device: th.device) -> PyTorchObs:
    """
    Bring observations to a device.

    :param observations: arrays or tensors, or a dict of them
    :param device: where to
    :return: tensors
    """
    if isinstance(observations, dict):
        return {key: th.as_tensor(value, device=device) for key, value in observations.items()}
    return th.as_tensor(observations, device=device)


Data: TypeAlias = tuple[PyTorchObs, th.Tensor | None]


def _chunks(build: Build, policy: ActorCriticPolicy, data: Data, v: th.Tensor, expected: th.Tensor) -> Finding:
    """Three states at a time; the last chunk is smaller than the others where their number is no multiple of it."""
    try:
        product = build(policy, *data, chunk_size=3).matvec(v)
    except TypeError as problem:
        if "chunk_size" in str(problem):
            return skip("chunks", "it takes no `chunk_size`")
        raise
    error = relative_error(product, expected)
    return judge("chunks", error <= tolerance(v.dtype), f"chunk_size=3 changes a product by {error:.1e}")


def _elsewhere(
    promise: str,
    build: Build,
    policy: ActorCriticPolicy,
    data: Data,
    v: th.Tensor,
    expected: th.Tensor,
    dtype: th.dtype,
    device: th.device | str,
) -> Finding:
    """The same product by a copy of the policy in another precision or on another device."""
    try:
        twin = _copy(policy, dtype, device)
        observations, actions = (as_tensors(data[0], th.device(device)), data[1])
        actions = None if actions is None else actions.to(device)
        if actions is not None and actions.is_floating_point():
            actions = actions.to(dtype)
        product = build(twin, observations, actions).matvec(v.to(device, dtype))
    except RuntimeError as problem:
        return skip(promise, f"a copy of the policy in {dtype} on {device} cannot be run: {str(problem).splitlines()[0]}")
    error = relative_error(product, expected)
    right = product.dtype is dtype and product.device.type == th.device(device).type
    return judge(promise, right and error <= TOLERANCE, f"on {device} in {dtype} a product differs by {error:.1e}")


def _copy(policy: ActorCriticPolicy, dtype: th.dtype, device: th.device | str) -> ActorCriticPolicy:
    """Return a copy in another precision or place."""
    twin = copy_policy(policy).to(device=device, dtype=dtype)
    names = ("features_extractor", "pi_features_extractor", "vf_features_extractor")
    modules = {getattr(twin, name, None) for name in names}
    for extractor in (module for module in modules if isinstance(module, nn.Module)):
        # SB3 makes observations single precision, whatever the policy's is; an extractor may have a precision of its own.
        extractor.register_forward_pre_hook(lambda _, inputs: tuple(_cast(value, dtype) for value in inputs))
        extractor.register_forward_hook(lambda _, inputs, output: _cast(output, dtype))
    return twin


def _cast(value: Any, dtype: th.dtype) -> Any:
    """Change the precision of what is floating point."""
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value.to(dtype) if isinstance(value, th.Tensor) and value.is_floating_point() else value


def _state_of(policy: ActorCriticPolicy) -> tuple[list[th.Tensor], list[Any]]:
    tensors = [tensor.detach().clone() for tensor in (*policy.parameters(), *policy.buffers())]
    modes = [module.training for module in policy.modules()] + [parameter.requires_grad for parameter in policy.parameters()]
    return [*tensors, th.get_rng_state()], [*modes, pickle.dumps(np.random.get_state())]


def _same(before: tuple[list[th.Tensor], list[Any]], after: tuple[list[th.Tensor], list[Any]]) -> bool:
    return all(map(th.equal, before[0], after[0])) and before[1] == after[1]
