"""A learning rate for each layer and each parameter of a transformer, learned by descent."""
