"""Influence patterns: through which tokens, heads and skip connections a model's choice flows.

Lu, Wang, Mardziel and Datta, NeurIPS 2021 (arXiv 2011.00740). Nothing here is about training data.
"""
