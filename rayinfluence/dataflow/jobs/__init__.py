"""Picklable work: a pure function with its operands, what it reads and what it commits. No Ray."""
