"""Plain functions and values. Nothing here reads a file, a clock or the environment."""
