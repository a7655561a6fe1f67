"""Analysis of every latent of a dictionary: firing, examples, co-firing latents, matched features and effects.

``explore_latents(d, source, LatentsConfig(), progress)`` makes one pass over a source's held-out samples and returns an
:class:`Exploration`; ``pipelines.explore`` renders it as pages.
"""

from sae.analysis.latents.explore import Absent, Exploration, LatentsConfig, explore_latents

__all__ = ["Absent", "Exploration", "LatentsConfig", "explore_latents"]
