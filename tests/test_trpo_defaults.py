"""What a constructor without arguments means, and which arguments mean sb3-contrib's way."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import sb3_contrib
import torch as th

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.trpo.arguments import AS_SB3_CONTRIB, SB3_CONTRIB_DEFAULTS

OURS, THEIRS = (
    {name: parameter.default for name, parameter in signature(algorithm.__init__).parameters.items()}
    for algorithm in (TRPO, sb3_contrib.TRPO)
)


def test_every_argument_of_sb3_contrib_is_there_in_its_order_with_its_default_but_for_three() -> None:
    assert list(OURS)[: len(THEIRS)] == list(THEIRS)
    different = {name: default for name, default in THEIRS.items() if OURS[name] != default}
    assert different == SB3_CONTRIB_DEFAULTS
    assert AS_SB3_CONTRIB.items() >= different.items()


@pytest.mark.parametrize(
    ("given", "critic"),
    [
        ({}, "gauss_newton"),
        ({"learning_rate": 3e-4}, "adam"),
        ({"learning_rate": lambda _: 1e-3}, "adam"),
        ({"batch_size": 64}, "adam"),
        ({"n_critic_updates": 20}, "adam"),
        ({"n_critic_updates": 20, "critic": "gauss_newton"}, "gauss_newton"),
        ({"critic": "adam"}, "adam"),
        ({"policy_kwargs": {"optimizer_class": th.optim.SGD}}, "adam"),
        ({"policy_kwargs": {"net_arch": [8]}}, "gauss_newton"),
        ({"n_steps": 2048, "gamma": 0.9, "cg_damping": 0.1}, "gauss_newton"),
    ],
)
def test_who_sets_an_argument_of_adam_means_adam(given: dict[str, Any], critic: str) -> None:
    assert TRPO("MlpPolicy", "CartPole-v1", device="cpu", **given).critic == critic


def test_the_choice_is_saved_and_not_made_anew(tmp_path: Path) -> None:
    model = TRPO("MlpPolicy", "CartPole-v1", device="cpu", sample_reuse=3)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", device="cpu")
    assert (loaded.critic, loaded.sample_reuse) == ("gauss_newton", 3)
    chosen = TRPO.load(tmp_path / "model", device="cpu", sample_reuse=2, critic="adam")
    assert (chosen.critic, chosen.sample_reuse) == ("adam", 2)


def test_a_model_of_sb3_contrib_is_loaded_as_what_it_was(tmp_path: Path) -> None:
    theirs = sb3_contrib.TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu", seed=0).learn(64)
    theirs.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=theirs.env, device="cpu")
    assert (loaded.critic, loaded.sample_reuse, loaded.n_steps, loaded.target_kl) == ("adam", 1, 64, 0.01)
    loaded.learn(64, reset_num_timesteps=False)
    assert all(bool(th.isfinite(parameter).all()) for parameter in loaded.policy.parameters())
