"""Generated videos of a figure that exercises."""
