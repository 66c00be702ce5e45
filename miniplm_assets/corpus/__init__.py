"""Readers of raw text, cleaning, tokenizers and packing."""
