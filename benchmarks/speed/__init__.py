"""Speed against sb3-contrib: products, updates, `learn()` and memory, in pairs."""
