"""Statistics, matching, sparse coding, random numbers and compiled loops; nothing here knows of dictionaries."""
