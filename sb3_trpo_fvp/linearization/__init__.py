"""Products with the Jacobian of what a policy computes, at one point, many times."""
