"""What is computed once and kept: clips and features, in shards on disk."""
