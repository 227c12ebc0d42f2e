"""Forward mode: a training run whose state carries its tangents along."""
