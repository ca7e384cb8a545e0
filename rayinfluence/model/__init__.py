"""Models: loading, tracked modules, capture of inputs and output gradients, losses, batches."""
