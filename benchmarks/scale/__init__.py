"""The cost of one dictionary over many devices: memory, communication and rows per second, computed."""
