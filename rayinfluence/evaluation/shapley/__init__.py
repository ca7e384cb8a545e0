"""What groups of sequences are worth to a model, as games: Shapley, Banzhaf and Beta values."""
