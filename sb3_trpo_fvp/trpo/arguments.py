"""Checks of the constructor's arguments."""

import warnings
from typing import TYPE_CHECKING, Any

from sb3_trpo_fvp.fisher import fisher_class
from sb3_trpo_fvp.linalg.arguments import require_choice, require_number
from sb3_trpo_fvp.rollouts.reuse import SampleReuse

if TYPE_CHECKING:
    from sb3_trpo_fvp.trpo.algorithm import TRPO


SB3_CONTRIB_DEFAULTS: dict[str, Any] = {"n_steps": 2048, "target_kl": 0.01, "cg_damping": 0.1}
"""What sb3-contrib's TRPO has where this one's constructor has something else."""
AS_SB3_CONTRIB: dict[str, Any] = {**SB3_CONTRIB_DEFAULTS, "critic": "adam", "sample_reuse": 1}
"""The same, and its way to learn: each update from its newest rollout alone, and the critic by Adam."""


SAMPLE_REUSE = 4
"""From how many of the last rollouts an update learns by default."""


def choose_critic(
    learning_rate: Any = 1e-3, batch_size: Any = 128, n_critic_updates: Any = 10, policy_kwargs: Any = None, **_: Any
) -> str:
    """
    Choose the critic where none was named: whoever sets an argument of Adam's, or the policy's optimizer, means Adam.

    :param learning_rate: as the constructor was given it, likewise the others; the defaults are its own
    :param batch_size: of the Adam critic
    :param n_critic_updates: of the Adam critic
    :param policy_kwargs: of the policy, among them its optimizer's
    :return: ``"gauss_newton"`` if all are at their defaults, else ``"adam"``
    """
    at_defaults = (learning_rate, batch_size, n_critic_updates) == (1e-3, 128, 10)
    optimizer = isinstance(policy_kwargs, dict) and not {"optimizer_class", "optimizer_kwargs"}.isdisjoint(policy_kwargs)
    return "gauss_newton" if at_defaults and not optimizer else "adam"


def check_arguments(model: "TRPO") -> None:
    """
    Look at every argument of the constructor, together with the environments where there are some.

    :param model: the algorithm, with its arguments as attributes
    :raises ValueError: for the first that is outside of its interval
    """
    fisher_class(model.fisher)
    if not callable(model.learning_rate):
        require_number("learning_rate", model.learning_rate, "[0, ∞)")
    for name, interval in (
        ("gamma", "[0, 1]"),
        ("gae_lambda", "[0, 1]"),
        ("target_kl", "(0, ∞)"),
        ("cg_damping", "[0, ∞)"),
        ("cg_residual_tol", "[0, 1)"),
        ("line_search_shrinking_factor", "(0, 1)"),
    ):
        require_number(name, getattr(model, name), interval)
    for name, least in (
        ("n_steps", 1),
        ("batch_size", 1),
        ("cg_max_steps", 1),
        ("line_search_max_iter", 1),
        ("n_critic_updates", 0),
        ("sub_sampling_factor", 1),
        ("fisher_sub_sampling_factor", 1),
        ("sample_reuse", 1),
    ):
        require_number(name, getattr(model, name), f"[{least}, ∞)", whole=True)
    require_choice("cg_preconditioner", model.cg_preconditioner, ("kronecker", "none"))
    require_choice("kl_reduction", model.kl_reduction, ("sum", "mean"))
    require_choice("kl_estimator", model.kl_estimator, ("analytic", "monte_carlo"))
    require_choice("critic", model.critic, ("adam", "gauss_newton"))
    if model.critic == "adam" and model.critic_kwargs:
        msg = (
            '`critic_kwargs` must be None with critic="adam", which takes learning_rate, batch_size and n_critic_updates, '
            f"got {model.critic_kwargs!r}"
        )
        raise ValueError(msg)
    model.make_critic_fit()
    SampleReuse(**model.sample_reuse_kwargs)
    if model.env is None:
        return
    size = model.env.num_envs * model.n_steps
    states = -(-size // model.sub_sampling_factor)
    if model.normalize_advantage:
        what = "n_steps * n_envs, thinned by sub_sampling_factor, with normalize_advantage"
        require_number(what, states, "[2, ∞)")
    # Every n-th state from the first on: two are left as long as n is less than their number.
    largest = max(states - 1, 1)
    if model.fisher_sub_sampling_factor > largest:
        msg = (
            f"`fisher_sub_sampling_factor` must be in [1, {largest}], to leave at least 2 of {states} states, "
            f"got {model.fisher_sub_sampling_factor!r}"
        )
        raise ValueError(msg)
    if model.critic == "adam" and model.sample_reuse == 1 and size % model.batch_size > 0:
        warnings.warn(
            f"`batch_size`={model.batch_size} does not divide the rollout of n_steps * n_envs = {size} states: the last "
            f"minibatch of each critic epoch has {size % model.batch_size}.",
            stacklevel=4,
        )
