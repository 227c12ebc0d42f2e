"""What runs only after a bad result: where a number that is not finite came from."""
