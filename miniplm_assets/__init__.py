"""Knowledge distillation in language-model pre-training as a graph of Dagster assets.

The method is MiniPLM's Difference Sampling (arXiv 2410.17215): every sequence of a corpus is scored
by a large teacher and a small reference language model; the sequences that the teacher predicts far
better than the reference are kept, and any student is trained on them.
"""
