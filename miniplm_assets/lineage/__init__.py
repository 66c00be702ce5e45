"""Which results an experiment consists of, and their fingerprints."""
