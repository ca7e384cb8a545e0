"""The proximal Bregman response: what an influence predicts, found by moving the weights.

Bae et al. 2022, If Influence Functions are the Answer, Then What is the Question? (arXiv
2209.05364); Grosse et al. 2023, section 2.1.
"""
