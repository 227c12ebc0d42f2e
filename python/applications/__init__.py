"""What metagradients are for: each module does one job on the user's own training step."""
