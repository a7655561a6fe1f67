"""The training loop, stacks of dictionaries, and the dense and sparse training steps."""
