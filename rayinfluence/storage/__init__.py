"""The only code that opens files: objects with atomic writes, checked tensors, tables, digests."""
