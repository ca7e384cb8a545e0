"""Influence, pure: low-rank query gradients, scores, top-k, group sums, tails, attribution."""
