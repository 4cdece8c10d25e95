"""A sweep is data: what comes from a server is never run, whatever it is called and whatever it holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.command_line import UserError
from sb3_trpo_fvp.zoo.configs import config_folder
from sb3_trpo_fvp.zoo.sweeps.sweep import SweepRun
from sb3_trpo_fvp.zoo.sweeps.values import check_values

TOUCH = "__import__('pathlib').Path('touched').touch()"
RUN = {"algo": "trpo_fvp", "env": "CartPole-v1", "n_timesteps": 64, "eval_freq": -1, "n_steps": 32, "batch_size": 32}


@pytest.mark.parametrize(
    "parameters",
    [
        {f"gamma:{TOUCH}#": 1},
        {f"policy:{TOUCH} or": "MlpPolicy"},
        {"policy_kwargs": TOUCH},
        {"policy_kwargs": f"dict(net_arch={TOUCH})"},
        {"policy_kwargs": f"dict(**{TOUCH})"},
        {"policy_kwargs": f"{{'net_arch': [{TOUCH} for _ in '1']}}"},
        {"policy_kwargs": f"dict(activation_fn=nn.ReLU if {TOUCH} else nn.Tanh)"},
        {"policy_kwargs": f"f'{{{TOUCH}}}'"},
        {"normalize": TOUCH},
        {"monitor_kwargs": TOUCH},
        {"policy_kwargs": "dict(activation_fn=nn.Module.__init__)"},
        {"policy_kwargs": "dict(activation_fn=nn.functional)"},
        {"policy_kwargs": "dict(activation_fn=th.load)"},
        {"policy_kwargs": "(" * 10_000},
        {"env_wrapper": "subprocess.Popen"},
        {"env_wrapper": [{"rl_zoo3.utils.get_class_by_name": {}}]},
        {"callback": "touches.Callback"},
        {"policy": "touches.Policy"},
        {"conf_file": "touches.py"},
        {"algo": f"trpo_fvp policy_kwargs={TOUCH}"},
        {"tensorboard_log": "elsewhere"},
    ],
    ids=str,
)
def test_code_in_a_sweep_is_refused_in_a_sentence_and_not_run(
    parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "touches.py").write_text(f"{TOUCH}\nhyperparams = {{}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["sweep-run", json.dumps({**RUN, **parameters}), "--no-wandb"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("sb3-trpo-fvp: ")
    assert "Traceback" not in printed
    assert [path.name for path in tmp_path.rglob("*")] == ["touches.py"]


def test_a_server_cannot_pass_a_value_that_is_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep-run", '{"algo": "trpo_fvp", "env": "CartPole-v1", "gamma": NaN}']) == 2
    assert "`gamma` of a sweep must be a finite number" in capsys.readouterr().err


def test_what_rl_zoos_own_files_hold_is_data() -> None:
    check_values(
        {
            "policy": "MlpPolicy",
            "policy_kwargs": """dict(
                log_std_init=-2.7, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 256], vf=[256]),
                optimizer_class=th.optim.SGD, features_extractor_kwargs={'features_dim': 8},
            )""",
            "normalize": "{'norm_obs': True, 'norm_reward': False}",
            "env_wrapper": [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 10}}, "rl_zoo3.wrappers.HistoryWrapper"],
            "callback": "rl_zoo3.callbacks.RawStatisticsCallback",
            "vec_env_wrapper": "stable_baselines3.common.vec_env.VecMonitor",
        }
    )


def test_a_name_that_is_no_name_never_reaches_rl_zoos_command_line() -> None:
    run = SweepRun.from_parameters({"algo": "trpo", "env": "CartPole-v1", f"gamma:{TOUCH}#": 1})
    with pytest.raises(UserError, match="is not the name of a hyperparameter"):
        run.zoo_arguments(".")


def test_a_dict_survives_the_way_to_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = {**RUN, "policy_kwargs": "dict(net_arch=[3], activation_fn=nn.ReLU)"}
    assert main(["sweep-run", json.dumps(parameters), "--no-wandb", "--output", "run"]) == 0
    from sb3_trpo_fvp import TRPO

    (saved,) = (tmp_path / "run").rglob("CartPole-v1.zip")
    assert str(TRPO.load(saved, device="cpu").policy.mlp_extractor.policy_net).count("ReLU") == 1


def test_the_files_of_this_project_hold_nothing_that_is_refused() -> None:
    import yaml

    for file in config_folder().glob("*.yml"):
        for entry in yaml.safe_load(file.read_text()).values():
            check_values({key: value for key, value in entry.items() if key in ("policy_kwargs", "normalize", "env_wrapper")})
