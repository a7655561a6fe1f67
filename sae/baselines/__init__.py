"""Classical methods and controls, one file each: baselines that are fitted and scored like trained dictionaries."""
