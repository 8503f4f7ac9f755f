"""One objective per module: a batch in, a loss for each of its samples out."""
