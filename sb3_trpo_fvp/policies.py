"""
The policies of Stable-Baselines3 under the names that TRPO users type.

They are SB3's own classes: a model of sb3-contrib's TRPO, PPO or A2C has the same policy and its weights fit.
"""

from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy
