"""Metagradient descent: what `metagrad.descent` is made of."""
