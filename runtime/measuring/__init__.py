"""What a model does on this machine, measured; and models of random weights to measure with."""
