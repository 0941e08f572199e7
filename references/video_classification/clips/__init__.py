"""From frames to batches of clips: which clips, in what order, augmented how, and read by whom."""
