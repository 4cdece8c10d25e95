"""It learns: two control problems to their thresholds, and a simulated robot in 60 thousand steps."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_fvp import TRPO


def best_return(model: TRPO, env_id: str, threshold: float, budget: int) -> float:
    """Train until the mean return of 20 episodes exceeds the threshold, or the budget of steps is spent."""
    episodes = 20
    callback = EvalCallback(
        make_vec_env(env_id, episodes, seed=1000),
        callback_on_new_best=StopTrainingOnRewardThreshold(threshold),
        n_eval_episodes=episodes,
        eval_freq=4 * model.n_steps,
        verbose=0,
    )
    model.learn(budget, callback)
    return float(callback.best_mean_reward)


@pytest.mark.parametrize("fisher", ["gauss_newton", "kl_hessian", "empirical"])
def test_cartpole_reaches_475(fisher: str) -> None:
    env = make_vec_env("CartPole-v1", 4, seed=0)
    model = TRPO("MlpPolicy", env, n_steps=256, batch_size=256, fisher=fisher, seed=0, device="cpu")
    assert best_return(model, "CartPole-v1", 475.0, budget=60_000) >= 475.0


def test_pendulum_beats_minus_300() -> None:
    env = make_vec_env("Pendulum-v1", 8, seed=0)
    model = TRPO(
        "MlpPolicy",
        env,
        n_steps=256,
        batch_size=256,
        gamma=0.9,
        learning_rate=3e-3,
        target_kl=0.02,
        seed=0,
        device="cpu",
    )
    assert best_return(model, "Pendulum-v1", -250.0, budget=100_000) > -300.0


def test_half_cheetah_improves_in_60_thousand_steps() -> None:
    env = VecNormalize(make_vec_env("HalfCheetah-v5", 4, seed=1))
    model = TRPO(
        "MlpPolicy",
        env,
        n_steps=256,
        batch_size=256,
        gamma=0.98,
        gae_lambda=0.9,
        target_kl=0.04,
        policy_kwargs={"log_std_init": -1.0},
        seed=1,
        device="cpu",
    )
    evaluation = VecNormalize(make_vec_env("HalfCheetah-v5", 3, seed=1001), training=False, norm_reward=False)
    evaluation.obs_rms = env.obs_rms

    def returns(deterministic: bool) -> np.ndarray:
        rewards, _ = evaluate_policy(
            model, evaluation, n_eval_episodes=3, deterministic=deterministic, return_episode_rewards=True
        )
        return np.array(rewards)

    start, noisy_start = returns(deterministic=True), returns(deterministic=False)
    model.learn(60_000)
    end, noisy_end = returns(deterministic=True), returns(deterministic=False)
    # The untrained mean action is almost no action: it stands still, at a return of zero.
    assert end.mean() > start.mean() + 100.0
    assert noisy_end.min() > noisy_start.max()
