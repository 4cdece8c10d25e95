"""The returns that stand for 0 and 1 where environments are averaged."""

import json
from collections.abc import Mapping
from typing import TypeAlias

from benchmarks import ROOT

REFERENCES = ROOT / "benchmarks" / "reference_scores.json"
References: TypeAlias = Mapping[str, Mapping[str, float]]
"""``"random"`` and ``"reference"`` of each environment."""


def read_references() -> dict[str, dict[str, float]]:
    """
    Read the returns that stand for 0 and 1.

    :return: ``"random"`` and ``"reference"`` of each environment
    """
    found: dict[str, dict[str, float]] = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return found


def random_returns(env_id: str, episodes: int) -> float:
    """
    Act at random.

    :param env_id: the environment
    :param episodes: how many
    :return: mean return of uniformly random actions
    """
    import gymnasium

    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def measure_random(episodes: int) -> None:
    """
    Measure the random return of each environment anew, and write it into the file.

    :param episodes: how many
    """
    references = read_references()
    for env_id, returns in references.items():
        returns["random"] = round(random_returns(env_id, episodes), 1)
    REFERENCES.write_text(json.dumps(references, indent=1) + "\n", encoding="utf-8")
