"""Tensors and tables in, tensors and tables out: no store, no Ray, no clock."""
