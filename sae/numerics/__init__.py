"""Statistics, matching, sparse coding, random numbers, compiled loops, atomic writes: nothing here knows of SAEs."""
