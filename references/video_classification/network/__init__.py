"""The network in memory and on disk."""
