"""Attribution graphs over the latents of several dictionaries: direct effects, influence, pruning and faithfulness."""
