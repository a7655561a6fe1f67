"""The stages, one file each; a stage turns directories into a directory."""
