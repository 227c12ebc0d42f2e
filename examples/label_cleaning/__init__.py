"""Wrong labels in real data, found by metagradients and by what one would do without them."""
