"""Steps of a run: their keys, their directories, their progress and their cost."""
