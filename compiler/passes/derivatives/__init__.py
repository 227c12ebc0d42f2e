"""What pass `differentiate` writes: the VJPs of functions and of inner gradients."""
