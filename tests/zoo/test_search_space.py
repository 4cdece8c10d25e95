"""The hyperparameters that Optuna draws."""

import optuna

from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.zoo.search_space import convert_trpo_fvp_params, sample_trpo_fvp_params


def test_the_search_space_gives_arguments_of_trpo() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: dict[str, set[object]] = {"fisher": set(), "fisher_sub_sampling_factor": set()}
    for _ in range(30):
        trial = study.ask()
        hyperparams = sample_trpo_fvp_params(trial, 1, 1, {})
        assert hyperparams == convert_trpo_fvp_params(trial.params)  # what `--trial-id` loads is what the trial ran
        for name in drawn:
            drawn[name].add(hyperparams[name])
        assert {"target_kl", "cg_damping", "cg_residual_tol", "cg_max_steps"} <= hyperparams.keys()
        TRPO("MlpPolicy", "CartPole-v1", device="cpu", **{**hyperparams, "n_steps": 512, "batch_size": 64})
    assert drawn == {"fisher": {"gauss_newton", "kl_hessian", "empirical"}, "fisher_sub_sampling_factor": {1, 2, 4}}
