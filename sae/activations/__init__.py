"""From text to activations: tokens, harvest, shards on disk, and labels of tokens."""
