"""What the first figure shows: the cost of a product against the number of states and the layers' width."""

import statistics
from dataclasses import replace
from typing import Any

import sb3_contrib

from benchmarks.common.pairs import Side
from benchmarks.common.workloads import Contestants, Rollout, Workload, contestants
from benchmarks.speed.measurements import Context
from benchmarks.speed.products import contrib_product, flat_double_backprop, layer_products, our_product
from benchmarks.speed.rows import HALFCHEETAH_16K

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)


def cost(context: Context) -> dict[str, Any]:
    """
    Measure the cost of a product on a HalfCheetah policy, against the number of states and against the layers' width.

    :param context: how to measure
    :return: medians over rounds, in units of the layers' matrix products for two layers of 64 and N = 2048 (the nearest
        size measured, when trying out)
    """
    rollout = context.rollout(HALFCHEETAH_16K)
    sizes = [n for n in SIZES if n <= context.shrink(HALFCHEETAH_16K).size]
    widths = WIDTHS[:3] if context.tiny else WIDTHS
    unit_size = min(2048, sizes[-1])

    def at(width: int, size: int) -> dict[str, float]:
        models = _of_width(width, context.shrink(HALFCHEETAH_16K), rollout)
        samples = models.states(size)
        theirs, v = contrib_product(models.theirs, samples)
        flat = flat_double_backprop(models.theirs.policy, samples)
        ours = our_product(models.ours.policy, samples, "gauss_newton")
        sides = {
            "sb3-contrib": Side(lambda: theirs(v)),
            "flat double backpropagation": Side(lambda: flat(v)),
            "gauss_newton": Side(lambda: ours(v)),
            "matrix products alone": Side(layer_products(models.ours.policy, samples)),
        }
        times = context.times(sides, shortest=0.02)
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    by_size = {size: at(64, size) for size in sizes}
    by_width = {width: by_size[unit_size] if width == 64 else at(width, unit_size) for width in widths}
    unit = by_size[unit_size]["matrix products alone"]

    def in_units(costs: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
        return [{"at": x, **{name: float(f"{y / unit:.4g}") for name, y in of.items()}} for x, of in costs.items()]

    return {"by_size": in_units(by_size), "by_width": in_units(by_width), "unit_size": unit_size}


def _of_width(width: int, workload: Workload, rollout: Rollout) -> Contestants:
    """Build both models with two layers of a width and new weights, on states that are there already."""
    workload = replace(workload, net_arch=(width, width))
    weights = workload.build(sb3_contrib.TRPO).policy.state_dict()
    return contestants(workload, Rollout(weights, rollout.buffer))
