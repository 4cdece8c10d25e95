"""Gauss-Newton against Adam for the critic, fitted to the same data in the same run."""
