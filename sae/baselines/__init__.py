"""Classical methods and controls, one file each; methods of equal standing with trained dictionaries."""
