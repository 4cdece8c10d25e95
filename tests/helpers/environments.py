"""An environment of any observation and action space, without memory and without a simulator."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATION_DIM = 4

VECTOR = spaces.Box(-1.0, 1.0, (OBSERVATION_DIM,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "image": IMAGE, "index": spaces.Discrete(3)})

ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-1.0, 1.0, (3,)),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}


def unbounded() -> spaces.Box:
    """Vectors of any size, whose samples are standard normal; a new space, with a random state of its own, at each call."""
    return spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)


class Memoryless(gym.Env):
    """Every observation is drawn anew; the reward pays for the sum of the action where the first coordinate is positive."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, episode_length: int = 17):
        self.observation_space, self.action_space = observation_space, action_space
        self.episode_length = episode_length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(np.sum(np.asarray(action, dtype=np.float64)) * self.sign)
        self.steps += 1
        return self._observe(), reward, False, self.steps >= self.episode_length, {}

    def _observe(self) -> Any:
        observation = self.observation_space.sample()
        first = observation["vector"] if isinstance(observation, dict) else observation
        self.sign = 1.0 if np.ravel(first)[0] > 0 else -1.0
        return observation
