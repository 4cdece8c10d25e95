"""The speed study measures what it says, on equal work: tested without measuring a time."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sb3_contrib
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

import sb3_trpo_fvp
from benchmarks import FIGURES, ROOT
from benchmarks.common.pages import update_page
from benchmarks.common.pairs import Side, measure_in_turns, summarize
from benchmarks.common.processes import peak_bytes
from benchmarks.common.provenance import provenance
from benchmarks.common.workloads import Contestants, Rollout, Workload, collect, contestants
from benchmarks.speed import command, improvement_curve, measure
from benchmarks.speed.figures import draw_cost, draw_improvement
from benchmarks.speed.measurements import Context
from benchmarks.speed.products import contrib_product, flat_double_backprop, layer_products, our_product
from benchmarks.speed.report import cell, markdown
from benchmarks.speed.rows import ROWS, Row, Target

TINY = Workload("Pendulum-v1", n_steps=128, net_arch=(8, 8))


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return collect(TINY)


@pytest.fixture
def models(rollout: Rollout) -> Contestants:
    return contestants(TINY, rollout)


class Clock:
    """Tells one second more at each look, and notes what ran."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def __call__(self) -> float:
        self.now += 1.0
        return self.now

    def note(self, letter: str) -> Callable[[], None]:
        def ran() -> None:
            self.log += letter

        return ran


def test_sides_take_turns_and_are_reset_outside_of_the_clock() -> None:
    clock = Clock()

    def slow_reset() -> None:
        clock.log += "r"
        clock.now += 100.0

    sides = {"a": Side(clock.note("a"), slow_reset), "b": Side(clock.note("b"))}
    times = measure_in_turns(sides, 3, warm_up=1, clock=clock)
    assert clock.log == "rab" + "rab" + "bra" + "rab"
    assert times == {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}


def test_a_short_side_is_repeated_within_a_turn() -> None:
    clock = Clock()
    times = measure_in_turns({"a": Side(clock.note("a"))}, 1, warm_up=1, shortest=5.0, clock=clock)
    assert clock.log == "a" + 5 * "a"
    assert times == {"a": [1.0 / 5.0]}


def test_ratios_are_of_pairs() -> None:
    summary = summarize([2.0, 40.0, 6.0, 8.0, 10.0], [1.0, 10.0, 2.0, 4.0, 1.0])
    assert (summary.lower, summary.median, summary.upper, summary.pairs) == (2.0, 3.0, 4.0, 5)
    assert summarize([3.0], [2.0]).median == 1.5


@pytest.mark.parametrize(("sense", "met"), [("≥", True), ("≤", False)])
def test_a_target_knows_its_direction(sense: str, met: bool) -> None:
    target = Target(sense, 1.5)
    ratio = target.ratio({"reference": [4.0, 4.0], "ours": [2.0, 2.0]})
    assert ratio.median == (2.0 if sense == "≥" else 0.5)
    assert target.is_met(ratio)
    assert target.is_met(target.ratio({"reference": [2.0, 2.0], "ours": [4.0, 4.0]})) is False
    assert (ratio.median > 1.0) is met


def test_every_product_of_the_study_is_the_same_product(models: Contestants) -> None:
    samples = models.states()
    theirs, gradient = contrib_product(models.theirs, samples)
    v = gradient / gradient.norm()
    expected = theirs(v) - models.theirs.cg_damping * v
    products = {kind: our_product(models.ours.policy, samples, kind)(v) for kind in ("gauss_newton", "kl_hessian")}
    products["flat"] = flat_double_backprop(models.theirs.policy, samples)(v)
    for name, product in products.items():
        assert (product - expected).norm() < 1e-4 * expected.norm(), name


class MatrixProducts(TorchDispatchMode):
    """Counts multiplications and additions in matrix products, in place or not."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (th.ops.aten.mm, th.ops.aten.addmm, th.ops.aten.addmm_):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


def test_the_floor_is_the_arithmetic_of_the_written_out_product(models: Contestants) -> None:
    samples = models.states()
    product = our_product(models.ours.policy, samples, "gauss_newton")
    _, v = contrib_product(models.theirs, samples)
    counts = []
    for work in (lambda: product(v), layer_products(models.ours.policy, samples)):
        with MatrixProducts() as counter:
            work()
        counts.append(counter.flops)
    assert counts[0] == counts[1] == 128 * 2 * (4 * (3 * 8 + 8 * 8 + 8 * 1) - 2 * 3 * 8)


def test_a_reset_puts_weights_and_rollout_back(models: Contestants) -> None:
    for model in (models.theirs, models.ours):
        before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        model.train()
        assert any(not th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
        assert model.rollout_buffer.generator_ready
        models.reset(model)()
        assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
        assert not model.rollout_buffer.generator_ready
        assert model.rollout_buffer.observations.shape == (128, 1, 3)
    observations = [model.rollout_buffer.observations for model in (models.theirs, models.ours)]
    assert (observations[0] == observations[1]).all()
    assert observations[0] is not observations[1]


def test_models_are_at_the_defaults_of_sb3_contrib(models: Contestants) -> None:
    theirs, ours = TINY.build(sb3_contrib.TRPO), TINY.build(sb3_trpo_fvp.TRPO)
    shared = ("learning_rate", "batch_size", "gamma", "gae_lambda", "cg_max_steps", "cg_damping", "target_kl")
    for name in (*shared, "line_search_shrinking_factor", "line_search_max_iter", "n_critic_updates", "n_steps"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.critic == "adam"
    for name, tensor in theirs.policy.state_dict().items():
        assert th.equal(tensor, ours.policy.state_dict()[name]), name


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a process's high-water mark")
def test_peak_memory_is_that_of_the_step_alone() -> None:
    held = th.ones(8 * 2**20)
    megabytes = peak_bytes(lambda: th.ones(16 * 2**20).sum()) / 2**20
    assert 60 < megabytes < 80
    assert held.sum() > 0


@pytest.mark.parametrize("key", ["product", "product-empirical", "product-hessian", "product-flat", "product-floor", "train"])
def test_rows_measure_both_sides(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workload, "tiny", lambda self: TINY)
    row = next(row for row in ROWS if row.key == key)
    measured = row.measure(Context(pairs=2, folder=tmp_path, tiny=True))
    assert {name: len(values) for name, values in measured.items()} == {"reference": 2, "ours": 2}
    assert min(measured["reference"] + measured["ours"]) > 0


def test_solvers_are_followed_on_one_and_the_same_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After k steps both are at the best of the same Krylov space; sb3-contrib has spent two products more."""
    workload = Workload("Pusher-v5", n_steps=128, net_arch=(16, 16))
    monkeypatch.setattr(Workload, "tiny", lambda self: workload)
    study = improvement_curve.improvement(Context(pairs=1, folder=tmp_path, tiny=True))
    for record in study["records"]:
        for k in (1, 2, 4, 8):
            assert record["theirs"][str(k + 2)] == pytest.approx(record["ours"]["none"][k - 1], abs=0.01)
        for fractions in record["ours"].values():
            assert fractions[0] < fractions[-1] == pytest.approx(1.0, abs=0.02)
        assert record["theirs_own_beta"]["17"] < record["theirs"]["17"]
        for stops in record["stops"].values():
            assert [stop["products"] for stop in stops] == sorted(stop["products"] for stop in stops)
    draw_improvement(study, 0.1, command.CONTRIB_PRODUCTS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert (
        "products with the Kronecker-factored preconditioner"
        in markdown({**results_of(ROWS[0], 4.0), "curves": {"improvement": study}})["speed-improvement"]
    )


def test_products_needed_counts_to_the_last_time_below() -> None:
    assert improvement_curve.products_needed([0.5, 0.995, 0.98, 0.999], 0.99) == 4
    assert improvement_curve.products_needed([0.995, 0.999], 0.99) == 1
    assert improvement_curve.products_needed([0.5, 0.6], 0.99) == 3


def test_cost_figure(tmp_path: Path) -> None:
    names = ("sb3-contrib", "flat double backpropagation", "gauss_newton", "matrix products alone")
    points = [{"at": at, **dict.fromkeys(names, at / 64.0)} for at in (64, 128)]
    draw_cost({"by_size": points, "by_width": points, "unit_size": 128}, 1, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_rows_and_curves_are_measured_at_their_threads() -> None:
    assert len(measure.KEYS) == len(set(measure.KEYS))
    chosen = measure.tasks(["memory", "cost", "train"])
    assert chosen == [measure.Task("train", 1), measure.Task("train", 2), measure.Task("memory", 1), measure.Task("cost", 1)]
    assert all(set(row.target.threads) & set(row.threads) for row in ROWS)


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.STUDY.main(["--only", "products"])
    assert "invalid choice: 'products'" in capsys.readouterr().err


def results_of(row: Row, reference: float) -> dict[str, object]:
    measured = {"reference": [reference] * 3, "ours": [1.0] * 3, "load": 0.5}
    environment = {**provenance("shared"), "cpu": "a processor"}
    return {"environment": environment, "pairs": 3, "rows": {row.key: {"1": measured, "2": measured}}, "curves": {}}


def test_tables_judge_where_the_target_is_meant() -> None:
    row = next(row for row in ROWS if row.key == "product")
    assert cell(row, results_of(row, 4.0), 1) == "4.00 (4.00–4.00) ✓"
    assert cell(row, results_of(row, 3.0), 1) == "3.00 (3.00–3.00) ✗"
    assert cell(row, results_of(row, 3.0), 2) == "3.00 (3.00–3.00)"
    assert cell(ROWS[-1], results_of(row, 3.0), 1) == "–"


def test_a_page_is_changed_between_its_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed-table:start -->\nold\n<!-- speed-table:end -->\nafter\n", encoding="utf-8")
    parts = markdown(results_of(ROWS[0], 4.0))
    update_page(page, parts)
    update_page(page, parts)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- speed-table:start -->\n| what | work |")
    assert text.endswith("|\n<!-- speed-table:end -->\nafter\n")
    assert "old" not in text
    assert text.count("4.00 (4.00–4.00) ✓") == 1
    assert "a processor" in parts["speed-environment"]
    assert "**shared**" in parts["speed-environment"]


def test_the_page_shows_the_committed_results() -> None:
    results = json.loads(command.RESULTS.read_text())
    pages = [(ROOT / path).read_text(encoding="utf-8") for path in ("docs/speed.md", "README.md")]
    for name, part in markdown(results).items():
        shown = f"<!-- {name}:start -->\n{part}\n<!-- {name}:end -->"
        assert any(shown in page for page in pages), name
        assert all(shown in page for page in pages if f"<!-- {name}:start -->" in page), name
    for curve, figure in (("cost", "product_cost.png"), ("improvement", "predicted_improvement.png")):
        assert curve in results["curves"]
        assert (FIGURES / figure).exists()
        assert all(f"figures/{figure}" in page for page in pages)
