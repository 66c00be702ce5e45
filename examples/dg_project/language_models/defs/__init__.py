"""What the project defines: a folder each."""
