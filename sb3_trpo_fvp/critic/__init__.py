"""Fitting the value function, without touching what the actor uses."""
