"""What XLA's CPU backend is bad at: run only in programs for a CPU."""
