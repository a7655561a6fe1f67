"""A transformer to read and to edit: its hook points, its tokenizer, and rows of tokens."""

from sae.model.hooked import Model, Site, load_tokenizer

__all__ = ["Model", "Site", "load_tokenizer"]
