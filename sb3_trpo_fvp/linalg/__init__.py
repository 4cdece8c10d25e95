"""Linear algebra that knows nothing of policies: flat vectors, conjugate gradients, Lanczos, products through autograd."""
