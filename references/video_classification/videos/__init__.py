"""From a video file to frames: which there are, decoding, resizing, and the choice of frames."""
