"""Documents to shards: ``ray job submit ... -- python jobs/tokenize_corpus.py --config C``."""

from rayinfluence.cli import job

if __name__ == "__main__":
    job("tokenize")
