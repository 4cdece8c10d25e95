"""TRPO as a Stable-Baselines3 algorithm."""

import time
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_fvp.critic.adam import AdamCritic
from sb3_trpo_fvp.critic.fit import CriticFit, fit_critic
from sb3_trpo_fvp.critic.gauss_newton import GaussNewtonCritic
from sb3_trpo_fvp.distributed import Communicator, communicator
from sb3_trpo_fvp.distributions import without_validation
from sb3_trpo_fvp.fisher import FisherOperator, fisher_class
from sb3_trpo_fvp.linalg.status import Status
from sb3_trpo_fvp.linearization.actor import LinearizedActor
from sb3_trpo_fvp.policies import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    ParameterSplit,
    evaluation_mode,
    index_observations,
    split_parameters,
)
from sb3_trpo_fvp.policies.batch_normalization import statistics_step
from sb3_trpo_fvp.rollouts.advantages import normalize
from sb3_trpo_fvp.rollouts.buffer import whole_rollout
from sb3_trpo_fvp.rollouts.collect import collect
from sb3_trpo_fvp.rollouts.reuse import Batch
from sb3_trpo_fvp.rollouts.sampler import numpy_sampler
from sb3_trpo_fvp.trpo.arguments import SAMPLE_REUSE, check_arguments, choose_critic
from sb3_trpo_fvp.trpo.log import record_update, warn_of, warn_of_skipped
from sb3_trpo_fvp.trpo.sample_reuse import SampleReusingAlgorithm
from sb3_trpo_fvp.trust_region import SurrogateProblem, TrustRegionStats, trust_region_step

SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")

_MOST_SKIPPED = 3
"""Updates in a row that may be skipped before a run is said to have stopped learning."""


class TRPO(SampleReusingAlgorithm, OnPolicyAlgorithm):
    """
    Trust Region Policy Optimization with a swappable Fisher-vector product.

    Paper: https://arxiv.org/abs/1502.05477. Arguments up to ``_init_setup_model`` are those of sb3-contrib's TRPO, in
    its order and with its meaning, but for the KL: here it is that of the joint action, old policy first, and β uses
    the undamped curvature. ``kl_reduction="mean"`` gives sb3-contrib's average over action dimensions back. Defaults are
    its own, but for ``target_kl`` and ``cg_damping``, which are in units of that KL, and ``n_steps``: four updates learn from
    each state (``sample_reuse``).

    Inside an initialised ``torch.distributed`` process group, the ranks train one policy together: ``n_steps``, the
    environments and ``batch_size`` are those of one rank, ``total_timesteps`` is that of all.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy or an own class)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate of the Adam critic, a float or a function of the remaining progress (1 to 0)
    :param n_steps: Steps in each environment per update: a rollout holds n_steps * n_envs states, and an update is made from
        the last ``sample_reuse`` rollouts
    :param batch_size: Minibatch size of the Adam critic
    :param gamma: Discount factor
    :param cg_max_steps: Most conjugate-gradient steps per update, at least 1
    :param cg_damping: λ ≥ 0, added to the Fisher matrix in the linear solve, in units of its entries. At 1.0 runs ended higher
        than at 0.2 on Walker2d, Swimmer and LunarLander, and not lower on HalfCheetah and Hopper (docs/benchmarks.md)
    :param line_search_shrinking_factor: By which a refused step is shortened, in (0, 1)
    :param line_search_max_iter: Most steps that the line search tries, at least 1
    :param n_critic_updates: Passes of the Adam critic over the states of an update, those of older rollouts included
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE)
    :param sde_sample_freq: Sample a new noise matrix every n steps when using gSDE (-1: once per rollout)
    :param rollout_buffer_class: Rollout buffer class to use. If ``None``, it will be automatically selected.
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param normalize_advantage: Whether to normalize the advantages
    :param target_kl: δ > 0, the bound on the mean KL(old ‖ new) of an update, in nats. sb3-contrib's 0.01 is an
        average over action dimensions; 0.0125 is of the joint KL, for four updates from each state (docs/sample-reuse.md)
    :param sub_sampling_factor: Do the whole actor step on every n-th state of the rollout only
    :param stats_window_size: Window size for the rollout logging, in episodes
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation
    :param verbose: the verbosity level: 0 no output, 1 info, 2 debug
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param fisher: The curvature: ``"gauss_newton"``, ``"kl_hessian"`` (equal to it, exact, slower), ``"empirical"``
        (from the actions taken), or a subclass of :class:`~sb3_trpo_fvp.fisher.FisherOperator`
    :param fisher_kwargs: Keyword arguments of the operator
    :param fisher_sub_sampling_factor: Compute the Fisher-vector products, and only them, on every n-th state (Schulman's
        thesis, section 3.9); at least 2 states must be left
    :param cg_residual_tol: Stop conjugate gradients at this relative residual ‖r‖/‖g‖, in [0, 1). At 0.15 the step predicts,
        in the median of real rollouts, 99 % or more of the improvement that an exact solve predicts (``make bench``)
    :param cg_preconditioner: ``"kronecker"``: precondition conjugate gradients by a Kronecker-factored approximation of the
        Fisher matrix, where the actor is a plain stack of linear layers; ``"none"``: do without
    :param kl_reduction: ``"sum"``: the KL of the joint action; ``"mean"``: its average over action dimensions, which
        bounds the joint KL by A times ``target_kl``, as sb3-contrib does
    :param kl_estimator: Which KL the line search holds against the bound: ``"analytic"``, or ``"monte_carlo"`` over the
        rollout's own actions, for policies that know only ``log_prob``
    :param damped_beta: Hold sᵀ(H + λI)s against δ in β, as sb3-contrib does, and so step shorter than δ allows; False: sᵀHs
    :param critic: How the value function is fitted: ``"gauss_newton"``, a few damped Gauss-Newton steps on all states of the
        update, whatever the scale of the returns, or ``"adam"``, minibatches with the policy's optimizer as in sb3-contrib.
        ``None``: ``"adam"`` if one of its arguments, ``learning_rate``, ``batch_size`` and ``n_critic_updates``, is not at its
        default, else ``"gauss_newton"``, which uses none of them
    :param critic_kwargs: Keyword arguments of :class:`~sb3_trpo_fvp.critic.gauss_newton.GaussNewtonCritic`
    :param sample_reuse: M ≥ 1, from how many of the last rollouts an update learns at most, the newest included (Queeney et
        al., 2022). Older ones are weighed by the ratio of the present policy's probabilities to those of the policy that
        acted, and get their advantages by V-trace; one that is too far away is left out. 1: from the newest alone
    :param sample_reuse_kwargs: Keyword arguments of :class:`~sb3_trpo_fvp.rollouts.reuse.SampleReuse`
    :raises ValueError: if an argument is outside its interval
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    _taken_over: ClassVar[tuple[str, ...]] = (*SampleReusingAlgorithm._taken_over, "critic_state")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 512,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 1.0,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float = 0.0125,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        fisher: str | type[FisherOperator] = "gauss_newton",
        fisher_kwargs: dict[str, Any] | None = None,
        fisher_sub_sampling_factor: int = 1,
        cg_residual_tol: float = 0.15,
        cg_preconditioner: Literal["kronecker", "none"] = "kronecker",
        kl_reduction: Literal["sum", "mean"] = "sum",
        kl_estimator: Literal["analytic", "monte_carlo"] = "analytic",
        damped_beta: bool = False,
        critic: Literal["adam", "gauss_newton"] | None = None,
        critic_kwargs: dict[str, Any] | None = None,
        sample_reuse: int = SAMPLE_REUSE,
        sample_reuse_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,  # TRPO has no entropy bonus,
            vf_coef=0.0,  # fits the critic on its own,
            max_grad_norm=0.0,  # and bounds the step by the KL instead
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.batch_size = batch_size
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_residual_tol = cg_residual_tol
        self.cg_preconditioner = cg_preconditioner
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.n_critic_updates = n_critic_updates
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.sub_sampling_factor = sub_sampling_factor
        self.fisher = fisher
        self.fisher_kwargs = fisher_kwargs or {}
        self.fisher_sub_sampling_factor = fisher_sub_sampling_factor
        self.kl_reduction = kl_reduction
        self.kl_estimator = kl_estimator
        self.damped_beta = damped_beta
        # A bare model, about to be loaded: files that name neither, older ones and sb3-contrib's, are of this algorithm.
        if not _init_setup_model:
            critic = critic or "adam"
            sample_reuse = 1 if sample_reuse == SAMPLE_REUSE else sample_reuse
        self.critic = critic or choose_critic(learning_rate, batch_size, n_critic_updates, policy_kwargs)
        self.critic_kwargs = critic_kwargs or {}
        self.sample_reuse = sample_reuse
        self.sample_reuse_kwargs = sample_reuse_kwargs or {}
        # Plain numbers, so that they are saved and loaded with the model to the last bit.
        self.critic_state: dict[str, float] = {}
        self._warned: set[Status] = set()
        self.skipped_updates = 0
        """Updates in a row, up to the last one, of which actor or critic was left alone for a reason that needs attention."""
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Here and not in the constructor: load() sets what was saved, or what its caller asks for, in between.
        check_arguments(self)
        super()._setup_model()

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """
        Fill the rollout buffer, by the shorter way of :mod:`sb3_trpo_fvp.rollouts` where policy and buffer allow it.

        :param env: the training environments
        :param callback: called at each step, and at the beginning and the end
        :param rollout_buffer: to fill
        :param n_rollout_steps: steps in each environment
        :return: False if the callback ended the training
        """
        self.policy.set_training_mode(False)
        way = super()._collect if numpy_sampler(self.policy, rollout_buffer) is None else partial(collect, self)
        return way(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Update actor and critic from the rollout buffer."""
        comm = communicator()
        self._update_learning_rate(self.policy.optimizer)
        newest = whole_rollout(self.rollout_buffer)

        started = time.perf_counter()
        with without_validation():
            split = split_parameters(self.policy, newest.observations)
            batch, reuse = self._pool(newest, comm)
            step = self._actor_step(batch, split, comm)
        actor_done = time.perf_counter()
        fit = fit_critic(self.make_critic_fit(), self.policy, split, batch, self.critic_state, comm)
        self.critic_state |= fit.state
        critic_done = time.perf_counter()
        self._keep_rollout(comm)

        self._n_updates += 1
        record_update(self, step, fit, reuse)
        self.logger.record("trust_region/actor_seconds", actor_done - started)
        self.logger.record("trust_region/critic_seconds", critic_done - actor_done)
        skipped = step.status.needs_attention or fit.status.needs_attention
        self.skipped_updates = self.skipped_updates + 1 if skipped else 0
        self._warn_once(step.status, "actor")
        self._warn_once(fit.status, "critic")
        self._end_update()

    def _actor_step(self, batch: Batch, split: ParameterSplit, comm: Communicator) -> TrustRegionStats:
        """Take one trust-region step on the surrogate; the critic's parameters are not looked at."""
        batch = batch[:: self.sub_sampling_factor]
        advantages = normalize(batch.advantages, comm, batch.weights) if self.normalize_advantage else batch.advantages
        if batch.weights is not None:
            advantages = batch.weights * advantages
        thinned = slice(None, None, self.fisher_sub_sampling_factor)

        # Before any graph is made: torch does not let what a graph has seen be moved for a while.
        statistics = statistics_step(self.policy, split.actor_modules, batch.observations, self.policy.get_distribution, comm)
        with evaluation_mode(self.policy):
            operator = fisher_class(self.fisher)(
                self.policy,
                index_observations(batch.observations, thinned),
                batch.actions[thinned],
                parameters=split.actor,
                **self.fisher_kwargs,
            )
            # On the same states, surrogate and operator share what is computed in them.
            shared = self.fisher_sub_sampling_factor == 1
            actor = operator.actor if shared else LinearizedActor(self.policy, batch.observations, split.actor)
            problem = SurrogateProblem(
                actor,
                batch.actions,
                advantages,
                weights=batch.weights,
                kl_reduction=self.kl_reduction,
                kl_estimator=self.kl_estimator,
                comm=comm,
            )
            return trust_region_step(
                problem,
                operator,
                target_kl=self.target_kl,
                damping=self.cg_damping,
                cg_max_steps=self.cg_max_steps,
                cg_residual_tol=self.cg_residual_tol,
                shrinking_factor=self.line_search_shrinking_factor,
                max_iterations=self.line_search_max_iter,
                precondition=self.cg_preconditioner == "kronecker",
                damped_beta=self.damped_beta,
                statistics=statistics,
            )

    def make_critic_fit(self) -> CriticFit:
        """Set up the fit that ``critic`` names, with the arguments as they are now."""
        if self.critic == "gauss_newton":
            return GaussNewtonCritic(**self.critic_kwargs)
        return AdamCritic(self.n_critic_updates, self.batch_size)

    def _warn_once(self, status: Status, who: str) -> None:
        """Say what the user must look at, each thing once per run."""
        if status.needs_attention and status not in self._warned:
            self._warned.add(status)
            warn_of(status, who, self._n_updates)

    def learn(
        self: SelfTRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TRPO_FVP",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTRPO:
        """
        Learn, see ``BaseAlgorithm.learn``; logged as TRPO_FVP, so that sb3-contrib's TRPO can share the folder.

        :param total_timesteps: The total number of samples (env steps) to train on
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: The number of updates before logging
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        """
        self._warned = set()
        self.skipped_updates = 0
        if not reset_num_timesteps:
            self._warn_of_missing_rollouts()
        super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
        if self.has_stopped_learning and communicator().rank == 0:
            warn_of_skipped(self.skipped_updates, self._n_updates)
        return self

    @property
    def has_stopped_learning(self) -> bool:
        """Whether the last run ended in a row of :attr:`skipped_updates` too long to be an accident."""
        return self.skipped_updates >= _MOST_SKIPPED

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_warned", "skipped_updates"]
