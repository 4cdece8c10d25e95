"""The critic as a function of its own parameters, on one rollout."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.linearization.autograd import GraphLinearization
from sb3_trpo_fvp.linearization.recognition import critic_stack
from sb3_trpo_fvp.linearization.stack import Stack, StackLinearization
from sb3_trpo_fvp.policies import ParameterSplit, has_methods_of_sb3, index_observations, num_observations

_MOST_NUMBERS = 2**26
"""Features of all ranks that a rank brings together at most: 256 megabytes in single precision."""


class ValueFunction:
    """
    The critic as a function of the critic's own parameters, on one rollout.

    Where the features extractor is the actor's, it stands still during the fit: features are computed once, without a
    graph, and not again for every minibatch.

    :param policy: the policy; modules that the actor uses must be in evaluation mode
    :param split: which parameters are whose
    :param observations: N states
    :param comm: who else has states of this rollout; the fit averages over the states of all
    """

    def __init__(self, policy: ActorCriticPolicy, split: ParameterSplit, observations: PyTorchObs, comm: Communicator = ALONE):
        self.policy = policy
        self.comm = comm
        self.parameters = split.critic
        self.size = num_observations(observations)
        self._split = split
        self._observations = observations

    @cached_property
    def _features(self) -> th.Tensor | None:
        return _constant_features(self.policy, self._split, self._observations)

    @cached_property
    def _stack(self) -> Stack | None:
        return critic_stack(self.policy, self._split.critic)

    @property
    def is_alike_everywhere(self) -> bool:
        """
        Whether every rank is sure to compute the same from the same states, and has room for those of all: a plain stack on
        features that stand still. Dropout, for one, draws on each rank for itself.
        """
        features = self._features
        return self._stack is not None and features is not None and features.numel() * self.comm.world_size <= _MOST_NUMBERS

    def of_all_ranks(self) -> "ValueFunction":
        """
        Bring the states of all ranks here, so that nothing is left to ask of the others.

        :return: the critic on the states of all; only where it :attr:`is_alike_everywhere`, on every rank
        """
        assert self._features is not None
        whole = ValueFunction(self.policy, self._split, self._observations)
        whole._features = self.comm.concatenate(self._features)
        whole.size = len(whole._features)
        return whole

    def __call__(self, index: th.Tensor | None = None) -> th.Tensor:
        """
        Predict values.

        :param index: which states, (n,) integers; all if None
        :return: shape (n, 1)
        """
        features = self._features
        if features is None:
            return self.policy.predict_values(self._states(index)).reshape(-1, 1)
        features = features if index is None else features[index]
        values: th.Tensor = self.policy.value_net(self.policy.mlp_extractor.forward_critic(features))
        return values.reshape(-1, 1)

    def linearize(self) -> StackLinearization | GraphLinearization:
        """
        Predict all values and linearise them in the critic's parameters, as these are now.

        :return: with one output of shape (N, 1)
        """
        if self._stack is None:
            with th.enable_grad():
                return GraphLinearization([self()], self.parameters)
        return self._stack.linearize(self._inputs(self._stack))

    def minibatches(
        self, returns: th.Tensor, permutation: th.Tensor, batch_size: int, count: int
    ) -> Iterator[tuple[StackLinearization | GraphLinearization, th.Tensor]]:
        """
        Go through the states once, in minibatches, and linearise each at the parameters of its time.

        :param returns: targets, shape (N,)
        :param permutation: the order of the states, (N,) integers
        :param batch_size: states in a minibatch; fewer in the last one
        :param count: of minibatches, at least N / batch_size; where it is more than that, they are of equal size
        :return: the n values of a minibatch linearised, valid until the next one, and the returns, shape (n, 1)
        """
        indices = th.split(permutation, batch_size)
        indices = indices if len(indices) == count else th.tensor_split(permutation, count)
        sizes = [len(index) for index in indices]
        targets = th.split(returns[permutation].unsqueeze(1), sizes)
        if self._stack is None:
            for index, target in zip(indices, targets, strict=True):
                with th.enable_grad():
                    yield GraphLinearization([self(index)], self.parameters), target
            return
        inputs: Iterable[th.Tensor] = (self._inputs(self._stack, index) for index in indices)
        if self._features is not None:
            inputs = th.split(self._features[permutation], sizes)  # in one go
        linearization: StackLinearization | None = None
        for features, target in zip(inputs, targets, strict=True):
            if linearization is None:
                linearization = self._stack.linearize(features, live_parameters=True)
            else:
                linearization.relinearize(features)
            yield linearization, target

    def _inputs(self, stack: Stack, index: th.Tensor | None = None) -> th.Tensor:
        """Return what the stack is fed with."""
        if self._features is None:
            return stack.features(self._states(index))
        return self._features if index is None else self._features[index]

    def _states(self, index: th.Tensor | None) -> PyTorchObs:
        return self._observations if index is None else index_observations(self._observations, index)


def _constant_features(policy: ActorCriticPolicy, split: ParameterSplit, observations: PyTorchObs) -> th.Tensor | None:
    """Compute the critic's features if they do not change while the critic is fitted, else None."""
    if not has_methods_of_sb3(policy, ("predict_values", "extract_features")):
        return None
    extractor = policy.vf_features_extractor
    critic_parameters = {id(parameter) for parameter in split.critic}
    if any(id(parameter) in critic_parameters for parameter in extractor.parameters()):
        return None
    # A module in training mode, of the critic alone, may draw random numbers.
    if any(module.training for module in extractor.modules() if not list(module.children())):
        return None
    with th.no_grad():
        return BaseModel.extract_features(policy, observations, extractor)
