"""Which callbacks run on which rank, and what the progress bar counts."""

from typing import Any, ClassVar

import pytest
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.distributed.callbacks import GlobalProgressBar, callback_of_rank


class Unmarked(BaseCallback):
    def _on_step(self) -> bool:
        return True


class Marked(Unmarked):
    every_rank: ClassVar[bool] = True


def test_callbacks_run_on_rank_0_unless_they_are_marked() -> None:
    checkpoint, marked, unmarked = CheckpointCallback(1, "."), Marked(), Unmarked()
    assert callback_of_rank([checkpoint, [marked]], 0, False) == [checkpoint, marked]
    assert callback_of_rank([checkpoint, [marked]], 1, True) == [marked]
    assert callback_of_rank(None, 1, False) == []
    with pytest.warns(UserWarning, match="Unmarked is called on rank 0 only"):
        assert callback_of_rank(unmarked, 0, False) == [unmarked]


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_the_progress_bar_counts_what_the_ranks_agree_on() -> None:
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu")
    bars: list[Any] = callback_of_rank(None, 0, progress_bar=True)
    assert [type(bar) for bar in bars] == [GlobalProgressBar]
    model.learn(128, callback=[*bars, *callback_of_rank(TwiceTheSteps(), 0, False)])
    assert bars[0].pbar.n == model.num_timesteps == 128


class TwiceTheSteps(BaseCallback):
    """As if another rank had made as many steps, which is known when a rollout ends."""

    every_rank = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.model.num_timesteps += 32
