"""How the hyperparameters of ``trpo_fvp.yml`` and the defaults of the constructor were found."""
