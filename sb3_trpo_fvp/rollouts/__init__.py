"""Collecting rollouts with less work per environment step, and what an update makes of them."""
