"""Influence, pure: low-rank query gradients, scoring, global top-k, group sums, attribution to tokens and layers."""
