"""Transformers: activations at hook points, edits there, tokenizers and rows of tokens."""

from sae.model.hooked import Model, Site
from sae.model.loading import load_tokenizer

__all__ = ["Model", "Site", "load_tokenizer"]
