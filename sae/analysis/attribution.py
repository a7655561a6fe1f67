"""Attribution of a model's output to latents; defined in :mod:`sae.analysis.intervention.attribution`."""

from sae.analysis.intervention.attribution import Attribution, attribute

__all__ = ["Attribution", "attribute"]
