"""A file for each kind of asset: its nodes, its settings, how it is made, its columns, checks and cost."""
