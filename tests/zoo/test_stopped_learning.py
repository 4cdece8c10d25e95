"""A training that ends in skipped updates says so, and its exit code tells scripts."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.cli import main


class Spoiled(gym.Env[np.ndarray, int]):
    """Gives NaN as the reward of every step from the 200th on."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)
    steps = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps % 10 == 0
        return self.observation_space.sample(), float("nan") if self.steps >= 200 else float(action), over, False, {}


@pytest.mark.filterwarnings("ignore")
def test_it_is_saved_and_the_exit_code_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register("Spoiled-v0", Spoiled)
    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text("Spoiled-v0: {policy: MlpPolicy, n_timesteps: 1000, n_steps: 50}\n")
    command = ["train", "--env", "Spoiled-v0", "-conf", "own.yml", "--eval-freq", "-1", "-n"]
    assert main([*command, "150"]) == 0
    assert main([*command, "1000"]) == 1
    assert "updates were skipped" in capsys.readouterr().err
    saved = TRPO.load(tmp_path / "logs" / "trpo_fvp" / "Spoiled-v0_2" / "Spoiled-v0.zip", device="cpu")
    assert all(bool(parameter.isfinite().all()) for parameter in saved.policy.parameters())
