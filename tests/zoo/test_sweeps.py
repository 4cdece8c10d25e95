"""Sweep files, the local runner, and the real ``wandb sweep`` and ``wandb agent`` against a server on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rl_zoo3.train
import yaml
from rl_zoo3.utils import StoreDict

from sb3_trpo_fvp.cli import main
from sb3_trpo_fvp.zoo.checks import checked_training_arguments
from sb3_trpo_fvp.zoo.command_line import UserError
from sb3_trpo_fvp.zoo.configs import config_folder
from sb3_trpo_fvp.zoo.experiment_manager import register
from sb3_trpo_fvp.zoo.results import FINISHED, Result, load_results
from sb3_trpo_fvp.zoo.sweeps.command import check_runs
from sb3_trpo_fvp.zoo.sweeps.runner import Runner
from sb3_trpo_fvp.zoo.sweeps.sweep import METRIC, Sweep, SweepRun
from tests.helpers import ROOT
from tests.helpers.wandb_server import ENTITY, SWEEP, WandbServer

FILES = sorted((config_folder() / "sweeps").glob("*.yaml"))
TINY = {
    "env": "CartPole-v1",
    "seed": 0,
    "n_timesteps": 128,
    "eval_freq": 64,
    "eval_episodes": 2,
    "n_steps": 32,
    "batch_size": 32,
    "num_threads": 1,
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    """A runner looks the algorithm up, as the command does, which registers it."""
    register()


def environment(**extra: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
    return {**clean, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def tiny_sweep(folder: Path, **parameters: Any) -> Path:
    """The benchmark's file with other values: its command and its metric are the ones under test."""
    content = yaml.safe_load((config_folder() / "sweeps" / "benchmark.yaml").read_text())
    given = {**TINY, **parameters}
    content["parameters"] = {key: {"values": v} if isinstance(v, list) else {"value": v} for key, v in given.items()}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# --- the files ---


def test_an_environment_may_carry_settings_of_its_own() -> None:
    run = SweepRun.from_parameters(
        {"algo": "trpo gamma=0.9", "env": "CartPole-v1 n_timesteps=30000 gamma=0.5", "eval_freq": 100}
    )
    assert run.options == {"env": "CartPole-v1", "n_timesteps": 30_000, "eval_freq": 100}
    assert run.hyperparams == {"gamma": 0.9}
    assert run.name.startswith("trpo-gamma=0.9__CartPole-v1__seedx__")
    with pytest.raises(UserError, match="written key=value, got '30000'"):
        SweepRun.from_parameters({"algo": "trpo", "env": "CartPole-v1 30000"})


def corners(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of a search that together take every listed value and both ends of every interval."""
    ends = {
        key: spec.get("values") or ([spec["value"]] if "value" in spec else [spec["min"], spec["max"]])
        for key, spec in parameters.items()
    }
    longest = max(map(len, ends.values()))
    return [{key: values[i % len(values)] for key, values in ends.items()} for i in range(longest)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_command_of_every_sweep_file_is_a_valid_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RL-Zoo's own parser takes it, with an environment, an algorithm and constructor arguments that exist."""
    register()
    sweep = Sweep.load(file)
    runs = sweep.runs() if sweep.method == "grid" else [SweepRun.from_parameters(each) for each in corners(sweep.parameters)]
    assert len(runs) >= 3
    check_runs(runs)

    class Parsed(Exception):
        pass

    def manager(args: Any, algo: str, env: str, *rest: Any, **options: Any) -> None:
        raise Parsed(args)

    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", manager)
    for run in runs:
        # Through JSON, as an agent hands them over.
        again = SweepRun.from_parameters(json.loads(json.dumps(dict(run.parameters))))
        assert again.name == run.name
        arguments = checked_training_arguments("train", again.zoo_arguments("logs"))
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with pytest.raises(Parsed) as parsed:
            rl_zoo3.train.train()
        args = parsed.value.args[0]
        assert (args.algo, args.env, args.seed) == (run.algo, run.options["env"], run.options["seed"])
        assert args.n_timesteps == run.options["n_timesteps"]
        assert (args.hyperparams or {}) == run.hyperparams


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sweep_files_say_what_an_agent_needs(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert content["metric"] == {"name": METRIC, "goal": "maximize"}
    assert content["command"] == ["${env}", "${interpreter}", "-m", "sb3_trpo_fvp", "sweep-run", "${args_json}"]
    for name, spec in content["parameters"].items():
        kinds = {type(spec[key]) for key in ("min", "max") if key in spec}
        assert len(kinds) <= 1, f"{name}: W&B refuses bounds of mixed types"
        assert str not in kinds, f"{name}: YAML reads 1e-3 as a string"
        assert "log_uniform" not in spec.values(), f"{name}: log_uniform takes exponents"


def test_the_benchmark_is_algorithm_by_environment_by_seed() -> None:
    runs = Sweep.load("benchmark").runs()
    like_for_like = "kl_reduction=mean damped_beta=True conf_file=trpo.yml"
    equal = [f"trpo_fvp fisher={fisher} {like_for_like}" for fisher in ("gauss_newton", "kl_hessian", "empirical")]
    # Every algorithm on a seed before the next environment.
    assert [run.variant for run in runs[:5]] == ["trpo", *equal, "trpo_fvp"]
    assert len({run.name for run in runs}) == len(runs) == 5 * 5 * 5
    assert runs[1].hyperparams == {"fisher": "gauss_newton", "kl_reduction": "mean", "damped_beta": True}
    assert runs[4].hyperparams == {}


def test_settings_keep_their_types_on_the_way_to_rl_zoo() -> None:
    settings = {
        "cg_damping": 1e-05,
        "fisher": "empirical",
        "normalize": "dict(norm_obs=True)",
        "x": None,
        "y": [1, 2.5],
        "z": {"a": True},
    }
    run = SweepRun.from_parameters({"algo": "trpo_fvp kl_reduction=mean target_kl=0.05", "env": "E", **settings})
    arguments = run.zoo_arguments("logs")
    parser = StoreDict(["-p"], "p", nargs="+")
    namespace = type("Namespace", (), {})()
    parser(None, namespace, arguments[arguments.index("--hyperparams") + 1 :])
    assert namespace.p == {**settings, "kl_reduction": "mean", "target_kl": 0.05}


def test_names_tell_runs_apart_and_do_not_depend_on_order() -> None:
    run = SweepRun.from_parameters({"algo": "trpo", "env": "ALE/Pong-v5", "seed": 3})
    assert run.name.startswith("trpo__ALE-Pong-v5__seed3__")
    assert run.name == SweepRun.from_parameters({"seed": 3, "env": "ALE/Pong-v5", "algo": "trpo"}).name
    assert run.name != SweepRun.from_parameters({"seed": 3, "env": "ALE/Pong-v5", "algo": "trpo", "gamma": 0.9}).name


def test_whole_numbers_may_be_written_as_floats() -> None:
    run = SweepRun.from_parameters({"algo": "trpo", "env": "E", "n_timesteps": 1e5, "eval_freq": "1e4"})
    arguments = run.zoo_arguments("logs")
    assert arguments[arguments.index("--n-timesteps") + 1] == "100000"
    assert arguments[arguments.index("--eval-freq") + 1] == "10000"
    with pytest.raises(UserError, match="`seed` must be a whole number, got 'one'"):
        SweepRun.from_parameters({"algo": "trpo", "env": "E", "seed": "one"}).zoo_arguments("logs")


# --- the local runner ---


def test_a_failed_run_is_reported_the_others_finish_and_nothing_is_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    file = tiny_sweep(tmp_path, algo=["trpo_fvp cg_damping=-1", "trpo", "trpo_fvp fisher=empirical"])
    command = ["sweep", str(file), "--jobs", "2", "-o", "out"]
    assert main(command) == 1
    printed = capfd.readouterr().out
    assert "failed trpo_fvp-cg_damping=-1__CartPole-v1" in printed
    assert "`cg_damping` must be in [0, ∞), got -1" in printed  # the end of its log
    assert "2 finished, 0 running, 1 failed" in printed
    assert "wandb sync" in printed

    results = {result.variant: result for result in load_results(tmp_path / "out")}
    assert results.keys() == {"trpo", "trpo_fvp fisher=empirical"}
    for result in results.values():
        timesteps, returns = result.evaluations()
        assert timesteps.tolist() == [64, 128]
        assert returns.shape == (2, 2)
        assert result.parameters["n_timesteps"] == 128
    _check_offline_runs(results)

    before = {result.folder: (result.folder / FINISHED).stat().st_mtime_ns for result in results.values()}
    assert main([*command, "--no-wandb"]) == 1  # the failed one is tried again
    assert "2 of 3 runs were finished before" in capfd.readouterr().out
    assert {folder: (folder / FINISHED).stat().st_mtime_ns for folder in before} == before


def _check_offline_runs(results: Mapping[str, Result]) -> None:
    keys = {}
    for variant, result in results.items():
        (run,) = (result.folder / "wandb").glob("offline-run-*")
        read = subprocess.run(
            ["wandb", "leet", "inspect", "--json", str(run)], env=environment(), capture_output=True, text=True, check=True
        )
        records = [json.loads(line) for line in read.stdout.splitlines() if line.startswith("{")]
        (header,) = [record["run"] for record in records if "run" in record]
        assert header["run_group"] == f"CartPole-v1 {variant}"
        assert header["project"] == "sb3-trpo-fvp"
        assert header["tags"][:2] == ["CartPole-v1", variant.split()[0]]
        keys[variant] = {key for record in records if "history" in record for key in record["history"]["item"]}
    _check_metrics(keys["trpo"], keys["trpo_fvp fisher=empirical"])


def _check_metrics(baseline: set[str], ours: set[str]) -> None:
    """One dashboard overlays both: what the baseline logs, this project logs under the same names."""
    assert baseline <= ours
    assert {METRIC, "rollout/ep_rew_mean", "train/kl_divergence_loss", "time/learn_seconds"} <= baseline
    assert {"trust_region/kl", "trust_region/target_kl", "trust_region/cg_steps"} <= baseline
    assert {"trust_region/cg_residual", "trust_region/actor_seconds", "trust_region/critic_seconds"} <= ours


def test_ctrl_c_keeps_what_is_finished_and_stops_the_rest(tmp_path: Path) -> None:
    file = tiny_sweep(tmp_path, algo=["trpo_fvp n_timesteps=64", "trpo_fvp n_timesteps=100000000"], eval_freq=-1)
    command = [sys.executable, "-m", "sb3_trpo_fvp", "sweep", str(file), "--no-wandb", "-o", "out"]
    short, long = Sweep.load(file).runs()
    runner = Runner([short, long], tmp_path / "out", 1)
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        # A suite that a shell has put into the background hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _wait_for(lambda: (runner.folder(long) / "progress").is_file(), process)
    assert runner._lock(long) is None  # another runner would leave it alone
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "1 finished" in printed
    assert "the same command goes on with the others" in printed
    assert runner.is_finished(short)
    assert not runner.is_finished(long)
    lock = runner._lock(long)  # nobody works on it any more
    assert lock is not None
    lock.close()


def _wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


# --- wandb sweep and wandb agent ---


def test_two_agents_work_through_a_sweep(tmp_path: Path) -> None:
    variants = ["trpo", "trpo_fvp fisher=gauss_newton"]
    file = tiny_sweep(tmp_path, algo=variants)
    with WandbServer() as stub:
        server = environment(
            WANDB_BASE_URL=stub.url,
            WANDB_API_KEY="0" * 40,
            WANDB_ERROR_REPORTING="false",
            HOME=str(tmp_path),
            WANDB_SILENT="true",
        )
        subprocess.run(["wandb", "sweep", str(file)], cwd=tmp_path, env=server, check=True, capture_output=True, timeout=120)
        assert stub.config["metric"]["name"] == METRIC
        command = ["wandb", "agent", f"{ENTITY['name']}/sb3-trpo-fvp/{SWEEP}"]
        agents = [subprocess.Popen(command, cwd=tmp_path, env=server, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [agent.wait(timeout=400) for agent in agents] == [0, 0]

    assert not stub.waiting
    assert sorted(parameters["algo"] for parameters in stub.dealt.values()) == variants
    assert len(set(stub.agent_of.values())) == 2
    runs = {parameters["algo"]: run_id for run_id, parameters in stub.dealt.items()}
    for variant, run_id in runs.items():
        bucket = stub.buckets[run_id]
        assert stub.exit_codes[run_id] == 0
        assert (bucket["sweep"], bucket["project"], bucket["groupName"]) == (SWEEP, "sb3-trpo-fvp", f"CartPole-v1 {variant}")
        assert bucket["tags"][:2] == ["CartPole-v1", variant.split()[0]]
        steps = [row["global_step"] for row in stub.history[run_id] if METRIC in row]
        assert steps == [64, 128]
    _check_metrics(stub.metrics(runs["trpo"]), stub.metrics(runs["trpo_fvp fisher=gauss_newton"]))

    results = {result.variant: result for result in load_results(tmp_path / "logs" / "sweeps" / SWEEP)}
    assert results.keys() == runs.keys()
    uploaded = [row[METRIC] for row in stub.history[runs["trpo"]] if METRIC in row]
    np.testing.assert_allclose(results["trpo"].evaluations()[1].mean(axis=1), uploaded, rtol=1e-6)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_wandb_takes_every_sweep_file(file: Path, tmp_path: Path) -> None:
    with WandbServer() as stub:
        server = environment(
            WANDB_BASE_URL=stub.url, WANDB_API_KEY="0" * 40, WANDB_ERROR_REPORTING="false", HOME=str(tmp_path)
        )
        created = subprocess.run(
            ["wandb", "sweep", str(file)], cwd=tmp_path, env=server, check=True, capture_output=True, text=True
        )
        assert f"wandb agent {ENTITY['name']}/sb3-trpo-fvp/{SWEEP}" in created.stdout + created.stderr
        sent = yaml.safe_load(file.read_text())
        assert stub.config["method"] == sent["method"]
        assert stub.config["parameters"].keys() == sent["parameters"].keys()
