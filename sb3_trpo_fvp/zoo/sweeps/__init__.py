"""Sweep files of Weights & Biases, run by its agents or, without a server, here."""
