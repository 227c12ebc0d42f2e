"""How smooth a training run is in its configuration: what `metagrad.metasmoothness` is made of."""
