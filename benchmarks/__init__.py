"""Studies of speed and learning against sb3-contrib; results are committed with the environment that gave them."""
