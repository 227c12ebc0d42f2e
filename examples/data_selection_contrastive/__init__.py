"""Data selection for a contrastive two-tower model, on digits and captions."""
