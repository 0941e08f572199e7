"""What a run leaves to look at: result files, a report page, TensorBoard events."""
