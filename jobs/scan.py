"""Score the corpus for every query: ``ray job submit ... -- python jobs/scan.py --config CONFIG``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("scan")
