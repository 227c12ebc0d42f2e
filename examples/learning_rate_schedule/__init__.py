"""A learning-rate schedule learned from a flat start, against grid search and tuning-free rules."""
