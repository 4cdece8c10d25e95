"""The rows of the speed table: what is measured, on what, and what it ought to be."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.pairs import Summary, summarize
from benchmarks.common.workloads import Workload
from benchmarks.speed.measurements import Context, Measurement, learn, peak_memory, product, train

HALFCHEETAH = Workload("HalfCheetah-v5", updates_before=5)
HALFCHEETAH_16K = Workload("HalfCheetah-v5", n_envs=8, updates_before=5)
HALFCHEETAH_64K = Workload("HalfCheetah-v5", n_envs=8, n_steps=8192)
HUMANOID = Workload("Humanoid-v5", net_arch=(256, 256))
FRAMES = Workload("CarRacing-v3", policy="CnnPolicy")
CARTPOLE = Workload("CartPole-v1")
FEW_PRODUCTS = {"cg_max_steps": 1}
"""For images, whose products take minutes in sb3-contrib; the peak is that of one product, however many there are."""


@dataclass(frozen=True)
class Target:
    """
    What a row ought to reach.

    :param sense: ``"≥"``: the reference's cost over ours; ``"≤"``: our cost over the reference's
    :param value: the ratio to reach
    :param threads: numbers of threads at which it is meant
    """

    sense: str
    value: float
    threads: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"

    def ratio(self, measured: Measurement) -> Summary:
        """Reduce a measurement to the ratio that the target is about."""
        reference, ours = measured["reference"], measured["ours"]
        return summarize(ours, reference) if self.sense == "≤" else summarize(reference, ours)

    def is_met(self, ratio: Summary) -> bool:
        """Whether the median reaches the target."""
        return ratio.median <= self.value if self.sense == "≤" else ratio.median >= self.value


@dataclass(frozen=True)
class Row:
    """
    One line of the table.

    :param key: what ``--only`` calls it
    :param what: is measured
    :param work: that it is measured on
    :param target: that it ought to reach
    :param measure: does it
    :param reference: what ours is compared with
    :param threads: numbers of threads to measure at
    """

    key: str
    what: str
    work: str
    target: Target
    measure: Callable[[Context], Measurement]
    reference: str = "sb3-contrib"
    threads: tuple[int, ...] = (1, 2)


_2K, _16K = "HalfCheetah-v5, 64-64, N = 2048", "HalfCheetah-v5, 64-64, N = 16,384"
_WIDE = "Humanoid-v5, 348 → 256 → 256 → 17, N = 2048"
_GN, _MEMORY = "one product, `gauss_newton`", "peak memory of the actor step"
_LAYERS, _FLAT = "the layers' matrix products alone", "one flat double backpropagation"
_FRAMES = "CarRacing-v3, NatureCNN, N = 2048"

ROWS: tuple[Row, ...] = (
    Row("product", _GN, _2K, Target("≥", 3.5, threads=(1,)), product(HALFCHEETAH)),
    Row("product-16k", _GN, _16K, Target("≥", 6.0, threads=(1,)), product(HALFCHEETAH_16K)),
    Row("product-floor", _GN, _16K, Target("≤", 1.4, threads=(1,)), product(HALFCHEETAH_16K, against="layers"), _LAYERS),
    Row("product-wide", _GN, _WIDE, Target("≥", 3.3), product(HUMANOID)),
    Row("product-wide-floor", _GN, _WIDE, Target("≤", 1.4, threads=(1,)), product(HUMANOID, against="layers"), _LAYERS),
    Row("product-cnn", _GN, "CarRacing-v3, NatureCNN, N = 512", Target("≥", 2.0), product(FRAMES, n=512)),
    Row("product-flat", _GN, _2K, Target("≥", 2.0), product(HALFCHEETAH, against="flat"), _FLAT),
    Row("product-empirical", "one product, `empirical`", _2K, Target("≥", 3.5), product(HALFCHEETAH, "empirical")),
    Row("product-hessian", "one product, `kl_hessian`", _2K, Target("≥", 1.5), product(HALFCHEETAH, "kl_hessian")),
    Row("actor-step", "whole actor step", _2K, Target("≥", 6.0), train(HALFCHEETAH, n_critic_updates=0)),
    Row("train", "`train()`", _2K, Target("≥", 2.5), train(HALFCHEETAH)),
    Row("train-16k", "`train()`", _16K, Target("≥", 2.5), train(HALFCHEETAH_16K)),
    Row("learn-cartpole", "`learn()`", "CartPole-v1", Target("≥", 3.0), learn(CARTPOLE)),
    Row("learn-1", "`learn()`", "HalfCheetah-v5, 1 environment", Target("≥", 2.2), learn(HALFCHEETAH)),
    Row("learn-8", "`learn()`", "HalfCheetah-v5, 8 environments", Target("≥", 2.1), learn(HALFCHEETAH_16K)),
    Row("memory", _MEMORY, "HalfCheetah-v5, 64-64, N = 65,536", Target("≤", 0.6), peak_memory(HALFCHEETAH_64K), threads=(1,)),
    Row("memory-cnn", _MEMORY, _FRAMES, Target("≤", 0.25), peak_memory(FRAMES, FEW_PRODUCTS), threads=(1,)),
    Row(
        "memory-cnn-chunks",
        f"{_MEMORY}, `chunk_size=256`",
        _FRAMES,
        Target("≤", 0.25),
        peak_memory(FRAMES, FEW_PRODUCTS, fisher_kwargs={"chunk_size": 256}),
        threads=(1,),
    ),
)
"""The table, in its order. Both sides run at sb3-contrib's defaults, this package's own arguments at its own."""
