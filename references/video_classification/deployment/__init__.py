"""A trained network at work: prediction, export, and proof that the export computes the same."""
