"""
The main job, start to end: train TRPO on CartPole-v1, evaluate it, save it.

``make train`` runs this; it takes no arguments.
"""

from pathlib import Path

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo_fvp import TRPO

ENV_ID = "CartPole-v1"
TOTAL_TIMESTEPS = 60_000
EPISODES = 20


def main() -> None:
    # The networks are small: more threads only wait for each other.
    th.set_num_threads(1)
    env = make_vec_env(ENV_ID, n_envs=4, seed=1)
    # A rollout of 512 states, as with one environment and the default n_steps.
    model = TRPO("MlpPolicy", env, n_steps=128, seed=1)
    print(f"Training TRPO on {ENV_ID} for {TOTAL_TIMESTEPS:,} steps")
    model.learn(TOTAL_TIMESTEPS, progress_bar=True)

    mean, std = evaluate_policy(model, make_vec_env(ENV_ID, seed=1_000), n_eval_episodes=EPISODES)
    path = Path("logs", "trpo_fvp_cartpole.zip")
    path.parent.mkdir(exist_ok=True)
    model.save(path)
    print(f"Mean return of {EPISODES} episodes: {mean:.1f} ± {std:.1f} (500 is the most there is)")
    print(f"Fisher operator: {model.fisher}")
    print(f"Saved to {path.resolve()}")


if __name__ == "__main__":
    main()
