"""
The learning benchmark: ``python -m benchmarks.learning``.

Runs are those of the sweep file that users have, done by ``sb3-trpo-fvp sweep benchmark`` through RL-Zoo's own training.
``--collect FOLDER`` takes what is finished out of a sweep's folder, the evaluations and what each run cost, into
``benchmarks/results/learning``, one small file a run, so that any machine can go on with the others. Without it, tables and
figures are drawn from those files, and the page is rewritten.

The final return of a run is the mean over the episodes of its last three evaluations. Normalised returns have 0 at the
return of uniformly random actions and 1 at the reference of ``reference_scores.json``.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.tables import update_page
from sb3_trpo_fvp.zoo.measure import bootstrap
from sb3_trpo_fvp.zoo.results import load_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning"
REFERENCES = ROOT / "benchmarks" / "reference_scores.json"
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURES = ROOT / "docs" / "figures"
BASELINE = "trpo"
NAMES = {
    BASELINE: "sb3-contrib",
    "trpo_fvp fisher=gauss_newton kl_reduction=mean conf_file=trpo.yml": "Gauss-Newton, like for like",
    "trpo_fvp fisher=kl_hessian kl_reduction=mean conf_file=trpo.yml": "KL Hessian, like for like",
    "trpo_fvp fisher=gauss_newton": "Gauss-Newton",
    "trpo_fvp fisher=kl_hessian": "KL Hessian",
    "trpo_fvp fisher=empirical": "empirical Fisher",
}
"""What the page calls the algorithms of the sweep file."""
COLORS = dict(zip(NAMES, ("#d55e00", "#0072b2", "#56b4e9", "#009e73", "#f0e442", "#cc79a7"), strict=True))
LAST = 3
REPETITIONS = 2000


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    :param variant: the algorithm with the settings written beside its name
    :param env: the environment
    :param seed: of the run
    :param steps: time steps of the evaluations, (n,)
    :param returns: of their episodes, (n, n_episodes)
    :param cpu_seconds: what the run's process spent, evaluations included
    :param kl: mean of ``train/kl_divergence_loss`` over updates, nats
    """

    variant: str
    env: str
    seed: int
    steps: np.ndarray
    returns: np.ndarray
    cpu_seconds: float
    kl: float

    @property
    def final(self) -> float:
        """Mean return of the last evaluations."""
        return float(self.returns[-LAST:].mean())


def collect(sweep: Path, results: Path = RESULTS) -> int:
    """
    Take the finished runs out of a sweep's folder.

    :param sweep: the folder
    :param results: where to put them
    :return: how many there are
    """
    results.mkdir(parents=True, exist_ok=True)
    found = load_results(sweep)
    for result in found:
        steps, returns = result.evaluations()
        content = {
            "variant": result.variant,
            "parameters": dict(result.parameters),
            "steps": steps.tolist(),
            "returns": [[round(float(value), 2) for value in row] for row in returns],
            "cpu_seconds": round(result.cpu_seconds, 1),
            "kl": round(float(np.mean(result.logged("train/kl_divergence_loss")[1])), 6),
            "versions": dict(result.versions),
        }
        (results / f"{result.folder.name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return len(found)


def read(results: Path = RESULTS) -> list[Run]:
    """
    Read what was collected.

    :param results: the folder
    :return: runs, by file name
    """
    runs = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        parameters = content["parameters"]
        steps, returns = np.asarray(content["steps"]), np.asarray(content["returns"])
        cost = content["cpu_seconds"]
        runs.append(Run(content["variant"], parameters["env"], parameters["seed"], steps, returns, cost, content["kl"]))
    return runs


def matched(runs: Sequence[Run], variants: Sequence[str]) -> dict[str, dict[tuple[str, int], Run]]:
    """
    Keep the runs whose environment and seed every one of some algorithms has done.

    :param runs: any
    :param variants: the algorithms
    :return: by algorithm, then by environment and seed
    """
    done = {variant: {(run.env, run.seed): run for run in runs if run.variant == variant} for variant in variants}
    common = set.intersection(*(set(of) for of in done.values()))
    return {variant: {key: of[key] for key in sorted(common)} for variant, of in done.items()}


def normalised(of: Mapping[tuple[str, int], Run], references: Mapping[str, Any]) -> np.ndarray:
    """
    Normalise final returns.

    :param of: one algorithm's runs by environment and seed
    :param references: random and reference return of each environment
    :return: (seeds, environments), of as many seeds as every environment has
    """
    envs = sorted({env for env, _ in of})
    columns = [[_scale(run.final, references[env]) for (e, _), run in of.items() if e == env] for env in envs]
    seeds = min(map(len, columns))
    return np.array([column[:seeds] for column in columns]).T


def _scale(value: Any, reference: Mapping[str, float]) -> Any:
    return (value - reference["random"]) / (reference["reference"] - reference["random"])


def aggregate(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """
    Interquartile mean of each algorithm, and the probability that a run of it beats one of the baseline (Agarwal et al.,
    2021), by rliable.

    :param scores: normalised returns by algorithm, (seeds, environments)
    :return: estimate and 95 % stratified bootstrap interval by ``"iqm NAME"`` and ``"improvement NAME"``
    """
    from rliable import library, metrics

    found = {}
    with warnings.catch_warnings():
        # The bootstrap's package has renamed the argument that rliable passes the generator in.
        warnings.simplefilter("ignore", FutureWarning)
        for variant, matrix in scores.items():
            points, spread = library.get_interval_estimates(
                {"x": matrix},
                lambda x: np.array([metrics.aggregate_iqm(x)]),
                reps=REPETITIONS,
                random_state=np.random.RandomState(0),
            )
            found[f"iqm {variant}"] = (float(points["x"][0]), float(spread["x"][0, 0]), float(spread["x"][1, 0]))
            if variant != BASELINE:
                points, spread = library.get_interval_estimates(
                    {"x": (matrix, scores[BASELINE])},
                    lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
                    reps=REPETITIONS,
                    random_state=np.random.RandomState(0),
                )
                value = (float(points["x"][0]), float(spread["x"][0, 0]), float(spread["x"][1, 0]))
                found[f"improvement {variant}"] = value
    return found


def section(runs: Sequence[Run], references: Mapping[str, Any]) -> str:
    """
    Compare every algorithm with the baseline, on the environments and seeds that both have done.

    :param runs: any
    :param references: random and reference return of each environment
    :return: markdown
    """
    parts = []
    for variant in (name for name in NAMES if name != BASELINE and any(run.variant == name for run in runs)):
        pair = matched(runs, (BASELINE, variant))
        if not pair[variant]:
            continue
        lines = [
            f"### {NAMES[variant]} against sb3-contrib",
            "",
            f"`{variant}`; {len(pair[variant])} runs of each. Means with 95 % bootstrap intervals over seeds; CPU time is "
            "sb3-contrib's over this one's of the same environment and seed, evaluations included, median; KL is the mean "
            "over updates of what each held against its `target_kl`, sb3-contrib's first.",
            "",
            "| environment | seeds | sb3-contrib | this | CPU time | KL of an update |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for env in sorted({env for env, _ in pair[variant]}):
            theirs, ours = ([run for (e, _), run in pair[which].items() if e == env] for which in (BASELINE, variant))
            ratio = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in zip(theirs, ours, strict=True))
            cells = [_interval(bootstrap(np.array([run.final for run in of])), 0, len(of)) for of in (theirs, ours)]
            kl = " / ".join(f"{statistics.mean(run.kl for run in of):.4f}" for of in (theirs, ours))
            lines.append(f"| {env} | {len(ours)} | {cells[0]} | {cells[1]} | {ratio:.2f} × | {kl} |")
        scores = {which: normalised(of, references) for which, of in pair.items()}
        seeds, envs = scores[variant].shape
        if seeds > 1:
            found = aggregate(scores)
            lines += [
                "",
                f"Interquartile mean of the normalised final return, {envs} environments and {seeds} seeds: sb3-contrib "
                f"{_interval(found[f'iqm {BASELINE}'], 3)}, this {_interval(found[f'iqm {variant}'], 3)}. Probability that a "
                f"run of this one ends above one of sb3-contrib's: {_interval(found[f'improvement {variant}'], 2)}.",
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "No run is finished."


def _interval(value: Sequence[Any], digits: int, count: int = 2) -> str:
    middle, low, high = value
    return f"{middle:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if count > 1 else "")


def draw(runs: Sequence[Run], path: Path) -> None:
    """
    Draw the learning curves, one panel for each environment.

    :param runs: any
    :param path: the file to write
    """
    envs = sorted({run.env for run in runs})
    figure = Figure(figsize=(4.2 * min(3, len(envs)), 3.4 * -(-len(envs) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(envs) // 3), min(3, len(envs)), squeeze=False).flatten()
    for axes in panels[len(envs) :]:
        axes.set_axis_off()
    for axes, env in zip(panels, envs, strict=False):
        for variant in NAMES:
            curves = [run for run in runs if (run.env, run.variant) == (env, variant)]
            if not curves:
                continue
            length = min(len(run.steps) for run in curves)
            means = np.array([run.returns[:length].mean(1) for run in curves])
            mean, low, high = bootstrap(means)
            axes.plot(curves[0].steps[:length], mean, color=COLORS[variant], label=NAMES[variant], lw=1.5)
            axes.fill_between(curves[0].steps[:length], low, high, color=COLORS[variant], alpha=0.18, lw=0)
        axes.set(title=env, xlabel="steps", ylabel="return")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for ax in panels for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("lines: mean over the seeds that are done, bands: 95 % bootstrap interval of more than one", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Collect if asked to, and write the page.

    :param arguments: the command line
    """
    parser = argparse.ArgumentParser(description="Report the learning benchmark.")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="take the finished runs out of a sweep's folder first")
    parser.add_argument("--random", type=int, metavar="N", help="measure the returns of random actions over N episodes first")
    options = parser.parse_args(arguments)
    references = json.loads(REFERENCES.read_text(encoding="utf-8"))
    if options.random:
        for env_id, scores in references.items():
            scores["random"] = round(random_returns(env_id, options.random), 1)
        REFERENCES.write_text(json.dumps(references, indent=1) + "\n", encoding="utf-8")
    if options.collect:
        print(f"{collect(options.collect)} finished runs")
    runs = read()
    text = section(runs, references)
    update_page(PAGE, {"learning": text})
    if runs:
        draw(runs, FIGURES / "learning.png")
    print(text)


if __name__ == "__main__":
    main()
