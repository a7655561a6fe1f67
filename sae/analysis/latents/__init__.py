"""Every latent of a dictionary looked at: where it fires, with whom, what it stands for and what it does.

``explore_latents(d, source, LatentsConfig(), progress)`` goes through a source's held-out rows once and gives an
:class:`Exploration`; ``pipelines.explore`` makes pages of it.
"""

from sae.analysis.latents.explore import Absent, Exploration, LatentsConfig, explore_latents

__all__ = ["Absent", "Exploration", "LatentsConfig", "explore_latents"]
