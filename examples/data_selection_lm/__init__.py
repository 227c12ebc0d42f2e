"""Data selection for fine-tuning a small language model: counts by metagradient descent."""
