"""What groups are worth: ``ray job submit ... -- python jobs/shapley.py --config C``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("shapley")
