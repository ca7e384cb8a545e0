"""The embedded default: Python's own prose, invented facts planted in it, a model of both."""
