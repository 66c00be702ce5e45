"""Language models: architectures, and the one contract by which they score sequences."""
