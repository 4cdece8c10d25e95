"""
Everything that drives experiments: RL-Zoo, Weights & Biases sweeps and the comparison with sb3-contrib.

Nothing here is imported by the algorithm, and nothing heavy is imported here: each command loads what it needs.
"""
