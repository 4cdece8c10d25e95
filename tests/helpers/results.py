"""A finished run, as the sweep runner leaves it."""

import json
from pathlib import Path

import numpy as np

from sb3_trpo_fvp.zoo.results import FINISHED, Result


def finished_run(folder: Path, seconds: float, kls: list[float], returns: list[float]) -> Result:
    """A finished run, as the runner leaves it."""
    zoo = folder / "trpo" / "Env-v0_1"
    zoo.mkdir(parents=True)
    np.savez(zoo / "evaluations.npz", timesteps=np.array([10, 20]), results=np.array([[value, value] for value in returns]))
    rows = ["time/total_timesteps,time/learn_seconds,trust_region/kl,trust_region/target_kl,trust_region/cg_steps,"]
    rows[0] += "train/is_line_search_success"
    rows += [f"{10 * (i + 1)},{seconds * (i + 1) / len(kls)},{kl},0.01,7,1" for i, kl in enumerate(kls)]
    (zoo / "progress.csv").write_text("\n".join(rows) + "\n")
    marker = {
        "variant": "trpo",
        "parameters": {"env": "Env-v0", "seed": 0},
        "seconds": seconds,
        "folder": "trpo/Env-v0_1",
        "versions": {},
    }
    (folder / FINISHED).write_text(json.dumps(marker))
    return Result.load(folder)
