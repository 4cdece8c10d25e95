"""Reading SB3's rollout buffers: all of them, in one order, whoever has read them before."""

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples


def whole_rollout(buffer: RolloutBuffer) -> RolloutBufferSamples:
    """
    Take the rollout out of a full buffer, environment after environment, and without drawing a random number.

    :param buffer: the buffer; its arrays are flattened as ``buffer.get`` does
    :return: tensors on the buffer's device, N = n_steps * n_envs rows each
    """
    random_state = np.random.get_state()
    # The first sample flattens the buffer's arrays, and shuffles, which is undone.
    next(buffer.get(batch_size=1))
    np.random.set_state(random_state)
    return buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))


def flat_observations(buffer: RolloutBuffer) -> Any:
    """
    Copy the observations of a full buffer in the order of :func:`whole_rollout`, and leave the buffer as it is.

    :param buffer: the buffer, before or after an update has read it
    :return: array (N, ...), or a dict of them
    """

    def flat(array: np.ndarray) -> np.ndarray:
        return array.copy() if buffer.generator_ready else buffer.swap_and_flatten(array).copy()

    observations: Any = buffer.observations
    return {key: flat(array) for key, array in observations.items()} if isinstance(observations, dict) else flat(observations)
