"""Speed of several ranks, measured on one machine and modelled on a network."""
