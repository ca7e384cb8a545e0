"""How good is an attribution? Fact tracing against known answers."""
