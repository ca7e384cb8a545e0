"""What a run would take, forecast from a few splits."""
