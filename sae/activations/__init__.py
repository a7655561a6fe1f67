"""From text to activations: tokenised rows, activations in shards on disk, and token labels."""
