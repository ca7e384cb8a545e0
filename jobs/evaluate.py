"""Measure methods: ``ray job submit ... -- python jobs/evaluate.py --config C``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("evaluate")
