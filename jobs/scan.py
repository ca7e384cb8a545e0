"""Score a corpus for all queries: ``ray job submit ... -- python jobs/scan.py --config C``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("scan")
