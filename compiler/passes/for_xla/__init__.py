"""What XLA is bad at on every platform in what Enzyme writes."""
