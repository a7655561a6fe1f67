"""One file for each question that `sae ask` knows, its kind the file's name."""
