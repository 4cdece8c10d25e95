"""The tables of :mod:`benchmarks.tuning`."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from benchmarks.common.pages import markdown_table
from benchmarks.common.references import read_references
from benchmarks.tuning.candidates import (
    BEYOND,
    CHOSEN,
    DEFAULTS,
    ENVS,
    LEVELS,
    LEVELS_OF,
    SEED,
    STEPS,
    Tried,
    design,
    variants,
)

Returns: TypeAlias = dict[tuple[str, str, int, int], float]
"""Final return by environment, settings, seed and steps."""


def effects(scores: np.ndarray) -> np.ndarray:
    """
    Estimate what each column of the design does.

    :param scores: of the 12 runs
    :return: mean at the high level less mean at the low one, (11,)
    """
    return design().T @ scores / 6.0


def table(returns: Returns) -> str:
    """
    Tabulate the effects.

    :param returns: as committed
    :return: markdown
    """
    references = read_references()
    found = {}
    for env in ENVS:
        finals = np.array([returns[env, settings, SEED, STEPS] for settings in variants(env)])
        low, high = references[env]["random"], references[env]["reference"]
        found[env] = effects((finals - low) / (high - low))
    header = ("setting", "low", "high", *ENVS, "mean")
    body = []
    for index, (name, levels) in enumerate(LEVELS.items()):
        own = [env for env in ENVS if name in LEVELS_OF.get(env, {})]
        pooled = float(np.mean([found[env][index] for env in ENVS if env not in own]))
        note = "".join(f" ({env}: {', '.join(LEVELS_OF[env][name])}; not in the mean)" for env in own)
        shown = [level.replace("{", "").replace("}", "").replace('"', "").replace(":", " ") for level in levels]
        cells = [f"{found[env][index]:+.2f}" for env in ENVS]
        body.append((f"`{name}`{note}", *shown, *cells, f"**{pooled:+.2f}**"))
    idle = slice(len(LEVELS), None)
    spread = [f"±{np.sqrt(np.mean(found[env][idle] ** 2)):.2f}" for env in ENVS]
    means = np.mean(list(found.values()), axis=0)
    last = f"±{np.sqrt(np.mean(means[idle] ** 2)):.2f}"
    body.append(("no setting (root mean square of 4)", "", "", *spread, last))
    return markdown_table(header, body)


def tried_table(returns: Returns, tried: Tried, steps: int, chosen: Mapping[str, str]) -> str:
    """
    Tabulate what was tried beyond the screening.

    :param returns: as committed
    :param tried: what, and on which seeds
    :param steps: of each run
    :param chosen: settings by environment
    :return: markdown, what was chosen in bold
    """
    body = []
    for env, of in tried.items():
        for settings, seeds in of.items():
            finals = [returns[env, settings, seed, steps] for seed in seeds]
            name = f"**`{settings}`**" if settings == chosen[env] else f"`{settings}`"
            shown = (", ".join(f"{number:.0f}" for number in numbers) for numbers in (seeds, finals, [np.mean(finals)]))
            body.append((env, name, *shown))
    return markdown_table(("environment", "settings", "seeds", "returns", "mean"), body)


def parts(returns: Returns) -> dict[str, str]:
    """
    Write everything that the page shows.

    :param returns: of all runs
    :return: tables by the name of their markers
    """
    chosen = {"swapped": dict.fromkeys(ENVS, DEFAULTS)}
    beyond = {name: tried_table(returns, of, steps, chosen.get(name, CHOSEN)) for name, (steps, of) in BEYOND.items()}
    return {"screening": table(returns), **beyond}
