"""All stages and the report: ``ray job submit ... -- python jobs/pipeline.py --config CONFIG``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("run")
