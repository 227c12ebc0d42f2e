"""Initial parameters that a few steps adapt to a new task: sinusoids, and digits."""
