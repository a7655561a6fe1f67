"""The families of scores, one file each."""
