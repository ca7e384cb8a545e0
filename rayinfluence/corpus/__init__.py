"""The corpus: readers of documents, tokenising, the shard format, splits, queries."""
