"""The critic fitted as the actor is moved: Gauss-Newton products, conjugate gradients, steps tried before they are kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch as th

from sb3_trpo_fvp.critic.fit import CriticFit, CriticStats, CriticStatus
from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributed import Communicator
from sb3_trpo_fvp.linalg.arguments import require_number
from sb3_trpo_fvp.linalg.conjugate_gradient import conjugate_gradient
from sb3_trpo_fvp.linalg.vectors import assign, flatten

_SHRINK, _GROW = 0.5, 4.0
"""By which the damping falls after a step that the model predicted well, and grows after one that it did not."""


@dataclass(frozen=True)
class GaussNewtonCriticStats(CriticStats):
    """
    What happened in a Gauss-Newton fit; ``loss`` is the mean squared error over the rollout after it.

    :param loss_before: mean squared error before the fit
    :param damping: λ after the fit, in units of the curvature along the gradient
    :param cg_steps: conjugate-gradient steps, over all steps of the fit
    :param accepted_steps: steps that lowered the loss and were kept
    :param reduction_ratio: actual over predicted reduction of the loss by the last step tried
    """

    loss_before: float = math.nan
    damping: float = math.nan
    cg_steps: int = 0
    accepted_steps: int = 0
    reduction_ratio: float = math.nan

    @property
    def state(self) -> dict[str, float]:
        """λ, see :attr:`CriticStats.state`."""
        return {"damping": self.damping}


@dataclass(frozen=True)
class _Step:
    """
    One step that was tried.

    :param status: FITTED if it was kept, else why not
    :param loss_before: mean squared error where it started, NaN if not finite
    :param loss_after: mean squared error where it ended: the same if it was not kept
    :param ratio: actual over predicted reduction
    :param cg_steps: conjugate-gradient steps
    """

    status: CriticStatus
    loss_before: float = math.nan
    loss_after: float = math.nan
    ratio: float = math.nan
    cg_steps: int = 0


class GaussNewtonCritic(CriticFit):
    """
    A few damped Gauss-Newton steps on f(θ) = ½ mean_n (V_θ(s_n) − R_n)² over the whole rollout (the second trust-region
    problem of Schulman et al., 2016, section 5, with the damping in place of the bound).

        B = JᵀJ / N,  g = −∇f = Jᵀ(R − V) / N,  J = ∂V/∂θ, (N, P), never formed
        (B + λcI) d = g,  c = gᵀBg / gᵀg

    1. λ is in units of c, the curvature along the gradient, and the residual is divided by its root mean square before it
       is multiplied: neither the scale of the returns nor that of the network's output changes what a λ means.
    2. A step that does not lower f is undone, bit for bit. λ follows the ratio of the actual to the predicted reduction
       (Marquardt, 1963) and is kept within its bounds: from a long row of good steps it would otherwise underflow.
    3. Modules stand in evaluation mode, so that f is a function: the same before and after a step.

    :param n_steps: most steps per update, at least 1
    :param cg_max_steps: most conjugate-gradient steps per step, at least 1
    :param cg_residual_tol: stop conjugate gradients at this relative residual, in [0, 1)
    :param damping: λ of the first update
    :param min_damping: lower bound on λ, in (0, ∞)
    :param max_damping: upper bound on λ
    :raises ValueError: if an argument is outside its interval
    """

    training_mode = False

    def __init__(
        self,
        *,
        n_steps: int = 3,
        cg_max_steps: int = 10,
        cg_residual_tol: float = 0.1,
        damping: float = 1.0,
        min_damping: float = 1e-3,
        max_damping: float = 1e3,
    ):
        require_number("n_steps", n_steps, "[1, ∞)", whole=True)
        require_number("cg_max_steps", cg_max_steps, "[1, ∞)", whole=True)
        require_number("cg_residual_tol", cg_residual_tol, "[0, 1)")
        require_number("min_damping", min_damping, "(0, ∞)")
        require_number("max_damping", max_damping, f"[{min_damping}, ∞)")
        require_number("damping", damping, f"[{min_damping}, {max_damping}]")
        self.n_steps = n_steps
        self.cg_max_steps = cg_max_steps
        self.cg_residual_tol = cg_residual_tol
        self.damping = damping
        self.min_damping = min_damping
        self.max_damping = max_damping

    def fit(self, values: ValueFunction, returns: th.Tensor, state: Mapping[str, float]) -> GaussNewtonCriticStats:
        """Do the steps, from the λ where the last fit ended, see :meth:`CriticFit.fit`."""
        # Bounds given after a model was loaded hold for the λ that it was saved with, too.
        damping = self._within_bounds(state.get("damping", self.damping))
        steps: list[_Step] = []
        while len(steps) < self.n_steps:
            steps.append(self._step(values, returns, damping))
            if steps[-1].status not in (CriticStatus.FITTED, CriticStatus.NO_DESCENT):
                break
            damping = self._adapted(damping, steps[-1].ratio)
        last = steps[-1]
        accepted = sum(step.status is CriticStatus.FITTED for step in steps)
        return GaussNewtonCriticStats(
            status=CriticStatus.FITTED if accepted else last.status,
            loss=last.loss_after,
            loss_before=steps[0].loss_before,
            damping=damping,
            cg_steps=sum(step.cg_steps for step in steps),
            accepted_steps=accepted,
            reduction_ratio=last.ratio,
        )

    @th.no_grad()
    def _step(self, values: ValueFunction, returns: th.Tensor, relative_damping: float) -> _Step:
        """Linearise, solve, try; keep the step if the loss falls."""
        jacobian = values.linearize()
        (predicted,) = jacobian.outputs
        targets = returns.to(predicted.dtype).view_as(predicted)
        comm = values.comm
        old_loss = _mean_square(_error(targets, predicted), comm)
        if old_loss == 0.0:
            return _Step(CriticStatus.ZERO_GRADIENT, old_loss, old_loss)
        if not math.isfinite(old_loss):
            return _Step(CriticStatus.NONFINITE_VALUES)

        # From here to the trial in units of the root mean square residual: there f = ½.
        unit = math.sqrt(old_loss)
        (g,) = comm.mean([jacobian.vjp([(targets - predicted) / unit]) / values.size], values.size)
        gg = float(th.dot(g.double(), g.double()))
        (jg,) = jacobian.jvp(g)
        gbg = _mean_square(jg, comm)
        if gg == 0.0 or gbg == 0.0:
            return _Step(CriticStatus.ZERO_GRADIENT, old_loss, old_loss)
        if not math.isfinite(gg + gbg):
            return _Step(CriticStatus.NONFINITE_VALUES, old_loss, old_loss)
        damping = relative_damping * gbg / gg

        def damped_curvature(v: th.Tensor) -> th.Tensor:
            (bv,) = comm.mean([jacobian.vjp(jacobian.jvp(v)) / values.size], values.size)
            return bv + damping * v

        solution = conjugate_gradient(damped_curvature, g, max_steps=self.cg_max_steps, rtol=self.cg_residual_tol)
        d = solution.value
        dbd = solution.quadratic_form - damping * float(th.dot(d.double(), d.double()))
        reduction = float(th.dot(g.double(), d.double())) - 0.5 * dbd
        if solution.num_steps == 0 or not reduction > 0.0:
            return _Step(CriticStatus.NONFINITE_VALUES, old_loss, old_loss)

        old = [parameter.detach().clone() for parameter in values.parameters]
        assign(values.parameters, flatten(old) + unit * d)
        new_loss = _mean_square(_error(targets, values()), comm)
        ratio = 0.5 * (1.0 - new_loss / old_loss) / reduction
        if new_loss < old_loss:
            return _Step(CriticStatus.FITTED, old_loss, new_loss, ratio, solution.num_steps)
        for parameter, tensor in zip(values.parameters, old, strict=True):
            parameter.copy_(tensor)
        return _Step(CriticStatus.NO_DESCENT, old_loss, old_loss, ratio, solution.num_steps)

    def _adapted(self, damping: float, ratio: float) -> float:
        """Trust the model more where it predicted well, less where it did not, or where the loss is not finite."""
        return self._within_bounds(damping * (_SHRINK if ratio > 0.75 else 1.0 if ratio >= 0.25 else _GROW))

    def _within_bounds(self, damping: float) -> float:
        return min(max(damping, self.min_damping), self.max_damping)


def _error(targets: th.Tensor, predicted: th.Tensor) -> th.Tensor:
    """In double precision: single would lose the last, small steps, and its squares overflow early."""
    return targets.double() - predicted.double().view_as(targets)


def _mean_square(error: th.Tensor, comm: Communicator) -> float:
    """Over the states of all ranks."""
    return float(comm.mean([error.double().square().mean()], len(error))[0])
