"""Fisher-vector products as others do them, and the arithmetic that none can do without."""

import copy
from collections.abc import Callable

import sb3_contrib
import torch as th
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import nn

from sb3_trpo_fvp import fisher_operator
from sb3_trpo_fvp.policies import prepare_actions

Product = Callable[[th.Tensor], th.Tensor]
"""v → Hv, shapes (P,) → (P,)."""


def contrib_product(model: sb3_contrib.TRPO, samples: RolloutBufferSamples) -> tuple[Product, th.Tensor]:
    """
    Build sb3-contrib's product, by its own methods, as its ``train()`` does: one graph for each parameter tensor.

    :param model: sb3-contrib's
    :param samples: N states
    :return: the product, (KL averaged over action dimensions, damped), and the gradient of the surrogate, (P,)
    """
    with th.no_grad():
        old_distribution = copy.copy(model.policy.get_distribution(samples.observations))
    distribution = model.policy.get_distribution(samples.observations)
    log_prob = distribution.log_prob(prepare_actions(model.policy, samples.actions))
    advantages = (samples.advantages - samples.advantages.mean()) / (samples.advantages.std() + 1e-8)
    objective = (advantages * th.exp(log_prob - samples.old_log_prob)).mean()
    kl_div = kl_divergence(distribution, old_distribution).mean()
    parameters, gradient, grad_kl, _ = model._compute_actor_grad(kl_div, objective)
    return lambda v: model.hessian_vector_product(parameters, grad_kl, v), gradient


def flat_double_backprop(policy: ActorCriticPolicy, samples: RolloutBufferSamples) -> Product:
    """
    Build the product of tianshou and skrl: one flat gradient of the KL, with its graph, differentiated again.

    :param policy: the policy
    :param samples: N states
    :return: the product
    """
    parameters = fisher_operator(policy, samples.observations).parameters
    with th.no_grad():
        old_distribution = copy.copy(policy.get_distribution(samples.observations))
    kl = kl_divergence(policy.get_distribution(samples.observations), old_distribution).mean()
    slope = th.cat([g.reshape(-1) for g in th.autograd.grad(kl, parameters, create_graph=True)])

    def product(v: th.Tensor) -> th.Tensor:
        return th.cat([g.reshape(-1) for g in th.autograd.grad((slope * v).sum(), parameters, retain_graph=True)])

    return product


def our_product(policy: ActorCriticPolicy, samples: RolloutBufferSamples, kind: str) -> Product:
    """
    Build this package's product.

    :param policy: the policy
    :param samples: N states
    :param kind: of the operator
    :return: the product, joint and undamped
    """
    operator = fisher_operator(policy, samples.observations, samples.actions, kind=kind)
    return lambda v: operator @ v


def layer_products(policy: ActorCriticPolicy, samples: RolloutBufferSamples) -> Callable[[], None]:
    """
    Multiply the matrices that JᵀMJv takes in an actor of linear layers, and do nothing else: 4L − 2 for L layers.

    :param policy: with an actor of linear layers
    :param samples: N states
    :return: does the multiplications, results in memory that is there already
    """
    layers = [module for module in policy.mlp_extractor.policy_net.modules() if isinstance(module, nn.Linear)]
    layers.append(policy.action_net)
    rows = len(samples.actions)
    work: list[tuple[th.Tensor, th.Tensor, th.Tensor]] = []

    def add(left: th.Tensor, right: th.Tensor) -> None:
        work.append((left, right, th.empty(len(left), right.shape[1])))

    for index, layer in enumerate(layers):
        weight = layer.weight.detach()
        tangent = th.randn(rows, layer.in_features)
        cotangent = th.randn(rows, layer.out_features)
        add(tangent, th.randn_like(weight).t())
        add(cotangent.t(), tangent)
        if index > 0:
            add(tangent, weight.t())
            add(cotangent, weight)

    def multiply() -> None:
        for left, right, out in work:
            th.mm(left, right, out=out)

    return multiply
