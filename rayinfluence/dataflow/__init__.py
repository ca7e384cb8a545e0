"""The dataflow: stages as pure functions, run inline or on Ray, committed to a run directory."""
