"""The commands of `python -m miniplm_assets`: a file for each, with its options and what it prints."""
