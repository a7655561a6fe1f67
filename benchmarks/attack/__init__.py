"""Programs that try to make a run lose work or accept a wrong number; README.md of the folder above has the results."""
