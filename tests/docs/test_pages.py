"""The documentation's code runs, and its lists are complete."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces

from benchmarks.joint_kl import ALGORITHMS, RESULTS, dimensions, measure, table
from sb3_trpo_fvp import CGStatus, StepStatus
from sb3_trpo_fvp.critic.fit import CriticStatus
from sb3_trpo_fvp.distributions.lookup import _REGISTERED
from tests.helpers import ROOT
from tests.helpers.training import collected, train

DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    "page", ["../README.md", "own-distributions.md", "own-operators.md", "coming-from-sb3-contrib.md", "robustness.md"]
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sb3_trpo_fvp.distributions.lookup._REGISTERED", dict(_REGISTERED))
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": page})


@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
def test_every_key_that_is_logged_is_explained(critic: str) -> None:
    text = (DOCS / "metrics.md").read_text()
    logged: dict[str, Any] = train(collected(spaces.Box(-1.0, 1.0, (2,)), critic=critic))
    assert {key for key in logged if f"`{key}`" not in text} == set()
    documented = set(re.findall(r"`((?:train|trust_region)/\w+)`", text))
    assert documented - set(logged) == set()


@pytest.mark.parametrize("statuses", [StepStatus, CGStatus, CriticStatus])
def test_every_status_is_explained_with_its_code(statuses: Any) -> None:
    robustness, metrics = ((DOCS / page).read_text() for page in ("robustness.md", "metrics.md"))
    column = [StepStatus, CGStatus, CriticStatus].index(statuses) + 2
    rows = {
        cells[1].strip(): cells for cells in (line.split("|") for line in metrics.splitlines() if re.match(r"\| \d", line))
    }
    for status in statuses:
        mark = " ⚠" if status.needs_attention else ""
        assert f"| `{status.label}`{mark} | {status.meaning} | {status.advice} |" in robustness
        assert rows[str(status.value)][column].strip() == status.name.lower()


def test_the_table_of_joint_kls_is_that_of_the_results() -> None:
    results = json.loads(RESULTS.read_text())
    assert (
        f"<!-- joint_kl:start -->\n{table(results)}\n<!-- joint_kl:end -->"
        in (DOCS / "coming-from-sb3-contrib.md").read_text()
    )
    for row in results["rows"]:
        if row["algorithm"] == "sb3-trpo-fvp":
            assert max(map(max, row["joint_kl"])) <= results["target_kl"] * (1 + 1e-6)


def test_the_measured_joint_kls_exceed_the_bound_for_sb3_contrib_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.joint_kl.N_STEPS", 128)
    theirs, ours = (measure(algorithm, "8 switches", 0, 2) for algorithm in ALGORITHMS.values())
    assert len(theirs) == len(ours) == 2
    assert 0.0 < max(ours) <= 0.01 * (1 + 1e-6) < min(theirs)
    assert dimensions("8 switches") == 8
    assert dimensions("CartPole-v1") == 1


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target, anchor in re.findall(r"\]\((?!http)([\w./-]*\.md)?(#[\w-]+)?\)", page.read_text()):
            linked = (page.parent / target) if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor[1:] in slugs, f"{page.name} links to {anchor} of {linked.name}"
