"""Whether a metagradient is the derivative of its run, and where a bad number came from."""
