"""The training loop, stacks of dictionaries, and the dense and the sparse training step."""
