"""``sb3-trpo-fvp compare``: sb3-contrib's TRPO and this one side by side."""
