"""What :func:`sb3_trpo_fvp.check_fisher` measures of Fisher operators, and what it makes of the numbers."""

import math
from dataclasses import dataclass

from sb3_trpo_fvp.check.measure import REFERENCE, TOLERANCE, OperatorReport


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
    """

    source: str
    num_states: int
    num_parameters: int
    operators: tuple[OperatorReport, ...]
    advice: tuple[str, ...]
    faults: tuple[str, ...]

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
        title = f"Fisher operators on {self.num_states} states {self.source}, {self.num_parameters} parameters of the actor"
        compared = f"cosine and relative error are to {REFERENCE}, over random vectors"
        problems = [f"{op.name}: {op.problem}" for op in self.operators if op.problem]
        notes = [f"! {fault}" for fault in self.faults] + [f"* {sentence}" for sentence in (*problems, *self.advice)]
        return "\n".join([title, compared, "", table[0], "-" * len(table[0]), *table[1:], "", *(notes or ["No remarks."])])


def find_faults(reports: tuple[OperatorReport, ...]) -> tuple[str, ...]:
    """
    Say what is wrong with an operator, whatever is done with it.

    :param reports: what was measured
    :return: sentences, none if nothing is wrong
    """
    faults = []
    for report in reports:
        if report.problem:
            continue
        if not all(map(math.isfinite, (report.asymmetry, report.largest_ritz))):
            why = "the policy is close to deterministic or its weights are huge"
            faults.append(f"{report.name} has NaN or infinity in its products: {why}.")
        elif report.asymmetry > TOLERANCE:
            faults.append(f"{report.name} is not symmetric: conjugate gradients need it to be.")
        elif not report.is_fisher:
            faults.append(
                f"{report.name} has a negative eigenvalue, at most {report.smallest_ritz:.1e}: raise `cg_damping` above it."
            )
        if report.name == "gauss_newton" and report.relative_error > TOLERANCE:
            faults.append(
                "gauss_newton and kl_hessian must agree and do not: `fisher` of the distribution's family is not the Hessian "
                "of its `kl`, or the KL has a kink where old and new policy agree."
            )
    return tuple(faults)


def give_advice(
    reports: tuple[OperatorReport, ...], num_states: int, size: int, source: str, damping: float | None
) -> tuple[str, ...]:
    """
    Say what the numbers mean for the model's options.

    :param reports: what was measured
    :param num_states: N
    :param size: P
    :param source: where the states are from
    :param damping: λ of the model, None if it has none
    :return: sentences, none if there is nothing to do
    """
    by_name = {report.name: report for report in reports if not report.problem}
    advice = []
    if source.startswith("drawn"):
        advice.append(
            "The states are random and not the policy's: pass an environment for numbers that mean something in training."
        )
    empirical = by_name.get("empirical")
    if empirical is not None and empirical.cosine < 0.9:
        why = f"its rank is at most {num_states} of {size}" if num_states < size else "it is noisy"
        advice.append(
            f"empirical differs from the Fisher matrix (cosine {empirical.cosine:.2f}), {why}: more states bring it closer."
        )
    timed = {name: by_name[name].seconds for name in ("gauss_newton", REFERENCE) if name in by_name}
    if len(timed) == 2 and timed["gauss_newton"] > 1.2 * timed[REFERENCE]:
        advice.append(f'{REFERENCE} is the faster of the two exact operators here: fisher="{REFERENCE}".')
    used = by_name.get("gauss_newton") or empirical
    if used is not None and damping is not None and used.largest_ritz > 0.0:
        ratio = damping / used.largest_ritz
        says = f"`cg_damping`={damping:g} is {ratio:.2g} of the largest curvature"
        if ratio > 1.0:
            advice.append(f"{says}: the step is close to the plain gradient's.")
        elif ratio < 1e-5:
            advice.append(f"{says}: directions that the data hardly determine are barely damped.")
    return tuple(advice)
