"""
The policies of Stable-Baselines3 under the names that TRPO users type, and what an update needs to know of them.

They are SB3's own classes: a model of sb3-contrib's TRPO, PPO or A2C has the same policy and its weights fit.
"""

from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_trpo_fvp.policies.inspection import (
    ParameterSplit,
    evaluation_mode,
    has_methods_of_sb3,
    index_observations,
    num_observations,
    prepare_actions,
    split_parameters,
)

MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy

__all__ = [
    "CnnPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "ParameterSplit",
    "evaluation_mode",
    "has_methods_of_sb3",
    "index_observations",
    "num_observations",
    "prepare_actions",
    "split_parameters",
]
