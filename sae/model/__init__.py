"""Transformers: activations at hook points, edits there, tokenizers and rows of tokens."""

from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.model.site import Site

__all__ = ["Model", "Site", "load_tokenizer"]
