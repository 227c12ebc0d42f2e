"""What each training example, or token, contributed to what a run ended up with."""
