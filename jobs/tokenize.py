"""Documents to shards: ``ray job submit ... -- python jobs/tokenize.py --config CONFIG``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("tokenize")
