"""The Dagster assets: `factory` makes them all, and a file for each stage of the graph says what they do."""
