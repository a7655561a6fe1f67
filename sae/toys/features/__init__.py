"""What distributions of features are made of: which are active, how strongly, and where they point."""
