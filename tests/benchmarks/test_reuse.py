"""The runs that the defaults were chosen from: what the page says of them, and that the constructor has what they chose."""

from inspect import signature

import numpy as np

from benchmarks import ROOT
from benchmarks.learning import reuse, swap
from sb3_trpo_fvp import TRPO
from sb3_trpo_fvp.trpo.arguments import choose_critic

CHOSEN = {"sample_reuse": 4, "n_steps": 512, "target_kl": 0.0125}


def test_the_page_has_the_tables_of_the_results() -> None:
    table = reuse.table(swap.read(reuse.RESULTS), swap.read())
    single = reuse.single_table(swap.read(reuse.SINGLE))
    page = (ROOT / "docs" / "sample-reuse.md").read_text(encoding="utf-8")
    for name, text in (("reuse", table), ("single", single)):
        assert f"<!-- learning-{name}:start -->\n{text}\n<!-- learning-{name}:end -->" in page


def test_no_seed_of_the_choice_is_reported() -> None:
    assert min(run.seed for run in swap.read(reuse.RESULTS)) >= 100 > max(run.seed for run in swap.read())


def test_the_constructor_has_what_was_ahead_of_sb3_contrib_in_every_environment() -> None:
    variant = " ".join(["trpo_fvp", *(f"{name}={value}" for name, value in CHOSEN.items()), "critic=gauss_newton"])
    runs = [run for run in swap.read(reuse.RESULTS) if run.variant == variant]
    theirs = [run for run in swap.read() if run.variant == "trpo"]
    envs = {run.env for run in theirs}
    assert {run.env for run in runs} == envs
    for env in envs:
        ours, others = ([run.area for run in of if run.env == env] for of in (runs, theirs))
        assert np.mean(ours) > np.mean(others), env
    arguments = signature(TRPO).parameters
    assert {name: arguments[name].default for name in CHOSEN} == CHOSEN
    assert choose_critic() == "gauss_newton"


def test_settings_are_read_over_the_defaults_of_their_time() -> None:
    before = {"M": "1", "steps": "2048", "δ": "0.05", "λ": "1.0", "critic": "Adam, 10 epochs", "else": ""}
    assert reuse.settings("trpo_fvp") == before
    assert reuse.settings('trpo_fvp sample_reuse_kwargs={"max_ratio":1.2}') == before | {"else": "ρ ≤ 1.2"}
    one = reuse.settings('trpo_fvp sample_reuse=4 n_steps=512 critic=gauss_newton cg_damping=0.3 critic_kwargs={"n_steps":1}')
    assert one == {"M": "4", "steps": "512", "δ": "0.05", "λ": "0.3", "critic": "Gauss-Newton, 1 step", "else": ""}
