"""
GAIL of `imitation` with this TRPO as its generator.

imitation pins an SB3 older than this package needs, so that it has an environment of its own: ``make test-imitation``.
"""

import numpy as np
from imitation.algorithms.adversarial.gail import GAIL
from imitation.data import rollout
from imitation.data.wrappers import RolloutInfoWrapper
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.networks import RunningNorm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo_fvp import TRPO


def balance(observations, states, episode_starts):
    """A controller of CartPole that never falls: push to where the pole falls to."""
    position, speed, angle, rate = observations.T
    return (angle + rate + 0.05 * position + 0.1 * speed > 0.0).astype(np.int64), None


def test_gail_learns_from_demonstrations_alone() -> None:
    env = make_vec_env("CartPole-v1", n_envs=4, seed=0, wrapper_class=RolloutInfoWrapper)
    until = rollout.make_sample_until(min_timesteps=None, min_episodes=10)
    demonstrations = rollout.rollout(balance, env, until, rng=np.random.default_rng(0))
    assert np.mean([len(episode) for episode in demonstrations]) > 400
    learner = TRPO("MlpPolicy", env, n_steps=256, gamma=0.95, seed=1, device="cpu")
    before, _ = evaluate_policy(learner, env, 10)
    reward_net = BasicRewardNet(env.observation_space, env.action_space, normalize_input_layer=RunningNorm)
    trainer = GAIL(
        demonstrations=demonstrations,
        demo_batch_size=256,
        gen_replay_buffer_capacity=512,
        n_disc_updates_per_round=8,
        venv=env,
        gen_algo=learner,
        reward_net=reward_net,
        allow_variable_horizon=True,
    )
    trainer.train(20 * 1024)
    after, _ = evaluate_policy(learner, env, 10)
    assert learner.num_timesteps == 20 * 1024
    assert after > 100.0 > before
