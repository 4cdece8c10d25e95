"""The critic as a function of its parameters: its linearisation, and what it computes once."""

from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_trpo_fvp.critic.value_function import ValueFunction
from sb3_trpo_fvp.distributed import Communicator
from sb3_trpo_fvp.policies import evaluation_mode, split_parameters
from tests.critic.cases import NETWORKS, Normalised, Rollout, jacobian, make_policy


@pytest.mark.parametrize("network", NETWORKS)
def test_products_are_those_of_the_dense_jacobian(network: str) -> None:
    policy = make_policy(**NETWORKS[network])
    data = Rollout(policy, size=7)
    split = split_parameters(policy, data.observations)
    j = jacobian(policy, data.observations, list(split.critic))
    with evaluation_mode(policy):
        values = ValueFunction(policy, split, data.observations)
        linearization = values.linearize()
    v, u = th.randn(j.shape[1], dtype=th.float64), th.randn(7, 1, dtype=th.float64)
    th.testing.assert_close(linearization.jvp(v)[0], (j @ v).unsqueeze(1))
    th.testing.assert_close(linearization.vjp([u]), j.T @ u.flatten())
    th.testing.assert_close(linearization.outputs[0], values())


class Pair(Communicator):
    """Two ranks that have seen the same."""

    world_size = 2

    def gather(self, value: Any) -> list[Any]:
        return [value, value]

    def concatenate(self, tensor: th.Tensor) -> th.Tensor:
        return th.cat([tensor, tensor])


def test_states_are_brought_together_where_every_rank_computes_alike() -> None:
    policy = make_policy()
    policy.set_training_mode(False)
    data = Rollout(policy)
    split = split_parameters(policy, data.observations)
    own = ValueFunction(policy, split, data.observations, Pair())
    assert own.is_alike_everywhere
    whole = own.of_all_ranks()
    assert whole.size == 2 * own.size
    assert th.equal(whole(), th.cat([own(), own()]))
    # Dropout draws on each rank for itself, and learned features change with every minibatch.
    policy.mlp_extractor.value_net.append(nn.Dropout(0.5))
    assert not ValueFunction(policy, split, data.observations, Pair()).is_alike_everywhere
    learned = make_policy(features_extractor_class=Normalised, share_features_extractor=False)
    learned.set_training_mode(False)
    split = split_parameters(learned, data.observations)
    assert not ValueFunction(learned, split, data.observations, Pair()).is_alike_everywhere
