"""Every operator against dense oracles that share no code with it, and the properties of a Fisher matrix."""

import re

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_fvp import EmpiricalFisher, FisherOperator, GaussNewton, KLHessian, fisher_operator
from tests.helpers import oracles
from tests.helpers.environments import OBSERVATION_DIM
from tests.helpers.models import ARCHITECTURES, DISTRIBUTIONS, make_batch, make_policy, sample_actions

KINDS = ("kl_hessian", "gauss_newton", "empirical")
distributions = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
kinds = pytest.mark.parametrize("kind", KINDS)


def relative_error(matrix: th.Tensor, oracle: np.ndarray) -> float:
    return float(np.linalg.norm(matrix.double().numpy() - oracle) / np.linalg.norm(oracle))


def actor(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    return list(oracles.actor_parameters(policy).values())


def oracle_of(kind: str, policy: ActorCriticPolicy, observations: th.Tensor, actions: th.Tensor) -> np.ndarray:
    if kind == "empirical":
        return oracles.empirical_fisher(policy, observations, actions, actor(policy))
    return oracles.fisher(policy, observations, actor(policy))


@architectures
@distributions
def test_operators_are_the_dense_oracles(distribution: str, architecture: str) -> None:
    policy = make_policy(distribution, architecture)
    observations, actions = make_batch(policy)
    fisher, empirical = (oracle_of(kind, policy, observations, actions) for kind in ("gauss_newton", "empirical"))
    hessian = oracles.kl_hessian(policy, observations, actor(policy))
    assert np.linalg.norm(fisher - hessian) < 1e-10 * np.linalg.norm(fisher)
    for kind, oracle in (("kl_hessian", hessian), ("gauss_newton", fisher), ("empirical", empirical)):
        operator = fisher_operator(policy, observations, actions, kind=kind)
        assert [id(p) for p in operator.parameters] == [id(p) for p in actor(policy)]
        # tanh⁻¹ of a squashed action costs digits.
        tolerance = 1e-8 if (kind, distribution) == ("empirical", "squashed_gsde") else 1e-10
        assert relative_error(operator.to_dense(), oracle) < tolerance, kind


@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
@distributions
def test_operators_are_the_dense_oracles_in_single_precision(distribution: str, architecture: str) -> None:
    policy = make_policy(distribution, architecture, dtype=th.float32)
    observations, actions = make_batch(policy)
    for kind in KINDS:
        dense = fisher_operator(policy, observations, actions, kind=kind).to_dense()
        assert dense.dtype is th.float32
        # The oracle's own backward passes are in single precision too.
        assert relative_error(dense, oracle_of(kind, policy, observations, actions)) < 1e2 * th.finfo(th.float32).eps, kind


@kinds
@architectures
@distributions
def test_operator_is_symmetric_semidefinite_linear_and_repeatable(distribution: str, architecture: str, kind: str) -> None:
    policy = make_policy(distribution, architecture)
    observations, actions = make_batch(policy)
    operator = fisher_operator(policy, observations, actions, kind=kind)
    u, v = th.randn(2, operator.shape[0], dtype=th.float64)
    kept = v.clone()
    fu, fv = operator.matvec(u), operator.matvec(v)
    assert th.equal(v, kept)
    assert th.equal(operator.matvec(v), fv)
    assert th.equal(operator @ v, fv)
    assert fv.shape == v.shape
    assert not fv.requires_grad
    th.testing.assert_close(u @ fv, v @ fu, rtol=1e-10, atol=1e-12)
    th.testing.assert_close(operator.matvec(2.5 * u - 3.0 * v), 2.5 * fu - 3.0 * fv, rtol=1e-10, atol=1e-12)
    assert not operator.matvec(th.zeros_like(v)).any()
    eigenvalues = th.linalg.eigvalsh(operator.to_dense())
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
    assert eigenvalues[-1] > 0


@kinds
@distributions
def test_operator_outlives_the_next_forward_pass(distribution: str, kind: str) -> None:
    """SB3's ``get_distribution`` hands out one object, overwritten by the next call."""
    policy = make_policy(distribution)
    observations, actions = make_batch(policy)
    operator = fisher_operator(policy, observations, actions, kind=kind)
    v = th.randn(operator.shape[0], dtype=th.float64)
    expected = operator.matvec(v)
    policy.get_distribution(th.randn(3, OBSERVATION_DIM))
    assert th.equal(operator.matvec(v), expected)


@kinds
@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
def test_frozen_parameters_are_not_in_the_matrix(architecture: str, kind: str) -> None:
    policy = make_policy("gaussian", architecture)
    next(policy.mlp_extractor.policy_net.parameters()).requires_grad_(False)
    policy.log_std.requires_grad_(False)
    observations, actions = make_batch(policy)
    operator = fisher_operator(policy, observations, actions, kind=kind)
    assert operator.shape[0] == sum(p.numel() for p in actor(policy))
    assert relative_error(operator.to_dense(), oracle_of(kind, policy, observations, actions)) < 1e-10


@kinds
def test_a_subset_of_the_parameters_gives_its_block(kind: str) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy)
    chosen = [policy.action_net.weight, policy.log_std]
    operator = fisher_operator(policy, observations, actions, kind=kind, parameters=chosen)
    if kind == "empirical":
        oracle = oracles.empirical_fisher(policy, observations, actions, chosen)
    else:
        oracle = oracles.fisher(policy, observations, chosen)
    assert relative_error(operator.to_dense(), oracle) < 1e-10


@kinds
@pytest.mark.parametrize("architecture", ["mlp", "learned_extractor"])
def test_one_state_and_a_thousand_repeats_of_it_give_the_same_matrix(architecture: str, kind: str) -> None:
    """The matrix is a mean over states: of one state, and of a thousand repeats of it, it is the same."""
    policy = make_policy("gaussian", architecture)
    observations, actions = make_batch(policy, size=1)
    one = fisher_operator(policy, observations, actions, kind=kind).to_dense()
    many = fisher_operator(policy, observations.expand(1000, -1), actions.expand(1000, -1), kind=kind).to_dense()
    assert relative_error(one, oracle_of(kind, policy, observations, actions)) < 1e-10
    th.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)


@distributions
def test_empirical_converges_to_gauss_newton_at_the_monte_carlo_rate(distribution: str) -> None:
    policy = make_policy(distribution, seed=3)
    observations, _ = make_batch(policy, size=4)
    gauss_newton = fisher_operator(policy, observations, kind="gauss_newton")
    directions = th.randn(4, gauss_newton.shape[0], dtype=th.float64)
    exact = th.stack([gauss_newton @ v for v in directions]).numpy()

    def error(count: int) -> float:
        states = observations.repeat(count, 1)
        empirical = fisher_operator(policy, states, sample_actions(policy, states), kind="empirical")
        return relative_error(th.stack([empirical @ v for v in directions]), exact)

    samples, repeats = [16, 128, 1024], 12
    errors = [np.sqrt(np.mean([error(count) ** 2 for _ in range(repeats)])) for count in samples]
    slope = np.polyfit(np.log(samples), np.log(errors), 1)[0]
    # The error falls as the root of the number of samples. Each point is known to 1/√(2 · 12) = 20 %, the slope to 0.07.
    assert -0.65 < slope < -0.35, (slope, errors)
    assert errors[-1] < 0.1


def test_empirical_has_at_most_the_rank_of_its_samples() -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy, size=4)
    dense = fisher_operator(policy, observations, actions, kind="empirical").to_dense()
    assert int(th.linalg.matrix_rank(dense, hermitian=True)) == 4


@pytest.mark.parametrize(
    ("kind", "cls"), [("kl_hessian", KLHessian), ("gauss_newton", GaussNewton), ("empirical", EmpiricalFisher)]
)
def test_an_operator_is_found_by_its_name_and_by_its_class(kind: str, cls: type[FisherOperator]) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy)
    by_name = fisher_operator(policy, observations, actions, kind=kind)
    assert type(by_name) is cls
    assert cls.name == kind
    assert type(fisher_operator(policy, observations, actions, kind=cls)) is cls
    assert type(fisher_operator(policy, observations.numpy(), actions.numpy(), kind=kind)) is cls


@pytest.mark.parametrize(
    ("distribution", "dtype"), [("bernoulli", th.int8), ("multi_categorical", th.int64), ("categorical", th.int64)]
)
def test_integer_actions_give_what_floats_give(distribution: str, dtype: th.dtype) -> None:
    policy = make_policy(distribution)
    observations, actions = make_batch(policy)
    v = th.randn(fisher_operator(policy, observations).shape[0], dtype=th.float64)
    floats, integers = (fisher_operator(policy, observations, a, kind="empirical") @ v for a in (actions, actions.to(dtype)))
    assert th.equal(floats, integers)


def test_default_operator_is_gauss_newton() -> None:
    policy = make_policy("gaussian")
    assert type(fisher_operator(policy, make_batch(policy)[0])) is GaussNewton


def test_scipy_finds_the_largest_eigenvalue() -> None:
    from scipy.sparse.linalg import eigsh

    policy = make_policy("gaussian")
    observations, _ = make_batch(policy)
    operator = fisher_operator(policy, observations)
    linear_operator = operator.to_scipy()
    assert linear_operator.shape == operator.shape
    largest = eigsh(linear_operator, k=1, return_eigenvectors=False, v0=np.ones(operator.shape[0]))[0]
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(operator.to_dense().numpy())[-1], rtol=1e-10)


def test_operator_consumes_no_random_number_and_leaves_the_policy_alone() -> None:
    policy = make_policy("gsde", "learned_extractor").train()
    observations, actions = make_batch(policy)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    torch_state, numpy_state = th.get_rng_state(), np.random.get_state()[1].tolist()
    for kind in KINDS:
        fisher_operator(policy, observations, actions, kind=kind).to_dense()
    assert th.equal(th.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert all(th.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert policy.training


@pytest.mark.parametrize("kind", ["gauss_newton", "empirical"])
def test_chunk_size_has_an_interval(kind: str) -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy)
    with pytest.raises(ValueError, match=r"`chunk_size` must be in \[1, ∞\), got 0"):
        fisher_operator(policy, observations, actions, kind=kind, chunk_size=0)


NAMES = '`fisher` must be one of "kl_hessian", "gauss_newton", "empirical" or a subclass of FisherOperator, got '


def test_wrong_arguments_are_named() -> None:
    policy = make_policy("gaussian")
    observations, _ = make_batch(policy)
    with pytest.raises(ValueError, match=re.escape(NAMES + "'hessian'")):
        fisher_operator(policy, observations, kind="hessian")
    with pytest.raises(ValueError, match=r"`actions` must be the actions taken in `observations`.*got None"):
        fisher_operator(policy, observations, kind="empirical")
    with pytest.raises(ValueError, match="`observations` must hold at least 1 state, got 0"):
        fisher_operator(policy, observations[:0])
    with pytest.raises(TypeError, match="unknown_option"):
        fisher_operator(policy, observations, unknown_option=1)


@pytest.mark.parametrize("shape", [(), (3,), (1, 5)])
def test_a_vector_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    policy = make_policy("gaussian")
    operator = fisher_operator(policy, make_batch(policy)[0])
    size = operator.shape[0]
    with pytest.raises(ValueError, match=re.escape(f"`v` must have shape ({size},), got {shape}")):
        operator @ th.zeros(shape, dtype=th.float64)


def test_actions_for_other_states_are_refused() -> None:
    policy = make_policy("gaussian")
    observations, actions = make_batch(policy)
    with pytest.raises((ValueError, RuntimeError)):
        fisher_operator(policy, observations, actions[:-1], kind="empirical") @ th.zeros(1)
