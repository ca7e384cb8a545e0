"""Results of models that differ in their seed, merged into means with standard errors."""
