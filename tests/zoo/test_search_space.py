"""The hyperparameters that Optuna draws."""

import optuna

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo.search_space import convert_trpo_fvp_params, sample_trpo_fvp_params


def test_the_search_space_gives_arguments_of_trpo() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: dict[str, set[object]] = {"critic": set(), "sample_reuse": set()}
    for _ in range(30):
        trial = study.ask()
        hyperparams = sample_trpo_fvp_params(trial, 1, 1, {})
        assert hyperparams == convert_trpo_fvp_params(trial.params)  # what `--trial-id` loads is what the trial ran
        for name in drawn:
            drawn[name].add(hyperparams[name])
        assert {"target_kl", "cg_damping"} <= hyperparams.keys()
        assert -1.5 <= hyperparams["policy_kwargs"]["log_std_init"] <= 0.5
        TRPO("MlpPolicy", "CartPole-v1", device="cpu", **{**hyperparams, "n_steps": 512, "batch_size": 64})
    assert drawn == {"critic": {"gauss_newton", "adam"}, "sample_reuse": {1, 2, 4}}
