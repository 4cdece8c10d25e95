"""What :func:`sb3_trpo_fvp.check_fisher` measures of Fisher operators, and what it makes of the numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_trpo_fvp.check.finding import failures
from sb3_trpo_fvp.check.measure import OperatorReport
from sb3_trpo_fvp.check.reference import Reference, Verdict
from sb3_trpo_fvp.check.states import Scale, States, StateSource
from sb3_trpo_fvp.fisher import GaussNewton, KLHessian
from sb3_trpo_fvp.policies import num_observations


@dataclass(frozen=True)
class FisherReport:
    """
    The operators side by side, as :func:`check_fisher` returns it; ``print(report)`` shows a table.

    :param source: where the states are from
    :param num_states: N
    :param num_parameters: P, the actor's
    :param operators: one entry for each
    :param advice: sentences on what to do, none if there is nothing to do
    :param faults: sentences on what is wrong, none if nothing is
    :param reference: name of the operator that the others are compared to
    :param normalization: what the states were normalised by, empty if by nothing
    """

    source: StateSource
    num_states: int
    num_parameters: int
    operators: tuple[OperatorReport, ...]
    advice: tuple[str, ...]
    faults: tuple[str, ...]
    reference: str = KLHessian.name
    normalization: str = ""

    def __str__(self) -> str:
        header = ("operator", "cosine", "rel. error", "asymmetry", "Ritz min", "Ritz max", "ms/product")
        rows: list[tuple[str, ...]] = [header]
        for op in self.operators:
            numbers = (op.relative_error, op.asymmetry, op.smallest_ritz, op.largest_ritz)
            cells = ("-" if math.isnan(number) else f"{number:.1e}" for number in numbers)
            cosine = "-" if math.isnan(op.cosine) else f"{op.cosine:.6f}"
            rows.append((op.name, cosine, *cells, "-" if math.isnan(op.seconds) else f"{1e3 * op.seconds:.2f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        states = f"{self.num_states} states {self.source.value}"
        if self.normalization:
            states += f", normalised by {self.normalization}"
        title = f"Fisher operators on {states}, {self.num_parameters} parameters of the actor"
        compared = f"cosine and relative error are to {self.reference}, over random vectors"
        problems = [f"{op.name}: {op.problem}" for op in self.operators if op.problem]
        notes = [f"! {fault}" for fault in self.faults] + [f"* {sentence}" for sentence in (*problems, *self.advice)]
        return "\n".join([title, compared, "", table[0], "-" * len(table[0]), *table[1:], "", *(notes or ["No remarks."])])


_EQUAL = "equal to the Fisher matrix"


def find_faults(reports: Sequence[OperatorReport], states: States, reference: Reference, used: str) -> tuple[str, ...]:
    """
    Say what is wrong with the states, with the distribution's family, or with an operator, whatever is done with it.

    :param reports: what was measured
    :param states: on what
    :param reference: what the operators were compared to
    :param used: name of the model's operator
    :return: sentences, none if nothing is wrong
    """
    faults = []
    if states.scale is Scale.RAW:
        faults.append(
            "The states are not normalised, and the model was trained on normalised ones: give them as the policy sees them, "
            "model.get_vec_normalize_env().normalize_obs(observations)."
        )
    if states.scale is Scale.STATISTICS_MISSING:
        faults.append(
            "The states are not normalised, and the run's config.yml says that the model was trained on normalised ones: "
            "give the file of its VecNormalize (`vec_normalize`, on the command line --vec-normalize)."
        )
    if reference.verdict is Verdict.WRONG_FISHER:
        faults.append(
            "`fisher` of the distribution's family is not the Hessian of its `kl`, by differences of the `kl`: "
            "gauss_newton is wrong, kl_hessian is right."
        )
    if reference.verdict is Verdict.BOTH_WRONG:
        faults.append(
            "Neither gauss_newton nor kl_hessian has the curvature that differences of the family's `kl` show: its "
            "`parameters` or its `kl` cannot be differentiated as they are written."
        )
    if reference.verdict is Verdict.KINKED_KL and used == KLHessian.name:
        faults.append(f'{_KINKED} fisher="{GaussNewton.name}".')
    for report in reports:
        for finding in failures(report.findings):
            if reference.verdict is not Verdict.AGREE and finding.promise == _EQUAL and report.name in _EXACT:
                continue  # said above, with the cause
            faults.append(f"{report.name} is not as an operator must be: {finding.promise}: {finding.detail}.")
    return tuple(faults)


_EXACT = (KLHessian.name, GaussNewton.name)
_KINKED = (
    "kl_hessian is not the Fisher matrix of this distribution: its KL has a kink where old and new policy agree, of which "
    "autograd takes the slope for 0. gauss_newton is right by differences of the KL, and the others are compared to it:"
)


def give_advice(
    reports: Sequence[OperatorReport], states: States, size: int, reference: Reference, used: str, damping: float | None
) -> tuple[str, ...]:
    """
    Say what the numbers mean for the model's options.

    :param reports: what was measured
    :param states: on what
    :param size: P
    :param reference: what the operators were compared to
    :param used: name of the model's operator
    :param damping: λ of the model, None if it has none
    :return: sentences, none if there is nothing to do
    """
    by_name = {report.name: report for report in reports if not report.problem}
    advice = []
    if states.source is StateSource.OBSERVATION_SPACE:
        advice.append(
            "The states are random and not the policy's: pass an environment for numbers that mean something in training."
        )
    if reference.verdict is Verdict.KINKED_KL and used != KLHessian.name:
        advice.append(f"{_KINKED} nothing to do as long as you do not choose kl_hessian.")
    num_states = num_observations(states.observations)
    for report in by_name.values():
        if not report.is_exact and report.cosine < 0.99:
            rank = f", and its rank is at most {num_states} of {size}" if num_states < size else ""
            more = f": more states bring it closer{rank}" if report.name == "empirical" else ""
            advice.append(f"{report.name} approximates the Fisher matrix, cosine {report.cosine:.4f}{more}.{_worth(report)}")
    timed = {name: by_name[name].seconds for name in _EXACT if name in by_name}
    if len(timed) == 2 and reference.verdict is Verdict.AGREE and timed[GaussNewton.name] > 1.2 * timed[KLHessian.name]:
        advice.append(f'{KLHessian.name} is the faster of the two exact operators here: fisher="{KLHessian.name}".')
    curvature = by_name.get(GaussNewton.name) or by_name.get("empirical")
    if curvature is not None and damping is not None and curvature.largest_ritz > 0.0:
        ratio = damping / curvature.largest_ritz
        says = f"`cg_damping`={damping:g} is {ratio:.2g} times the largest eigenvalue of the Fisher matrix"
        if ratio > 1.0:
            advice.append(f"{says}: the step is close to the plain gradient's. Lower it below {curvature.largest_ritz:.2g}.")
        elif ratio < 1e-5:
            advice.append(f"{says}: directions that the data hardly determine are barely damped.")
    return tuple(advice)


def _worth(report: OperatorReport) -> str:
    """What an approximation means for the step."""
    if report.step is None:
        return ""
    says = (
        f" At the same KL its step predicts {report.step.efficiency:.2f} times the improvement of the exact one; its full "
        f"step has {report.step.kl_ratio:.2g} times the KL that it aims at"
    )
    if report.step.kl_ratio > 1.5:
        return f"{says}: the line search has to shorten it."
    return f"{says}: it is shorter than `target_kl` allows." if report.step.kl_ratio < 0.5 else f"{says}."
