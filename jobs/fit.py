"""Fit the EK-FAC factors: ``ray job submit ... -- python jobs/fit.py --config CONFIG``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("fit")
