"""A hook point with held-out text, for scores of a dictionary that is spliced in there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from sae.model.hooked import HookEdit, Model
from sae.model.token_rows import TokenRows
from sae.numerics.norms import edit_within_norm


@dataclass(frozen=True, eq=False)
class Site:
    """A hook point of a model to splice a dictionary into, with held-out text to measure the effect on."""

    hook: str
    """The hook point whose activations a dictionary encodes."""
    text: TokenRows
    """Held-out rows of tokens."""
    boot: Callable[[], Model]
    """Loads the model; called once, on the first use of :attr:`model`."""
    target: str | None = None
    """The hook point whose activations a dictionary reconstructs, later in the forward pass; None: `hook` itself."""
    norm_limit: float | None = None
    """Activations of a greater norm, which no dictionary was trained on, pass unchanged; None: no limit."""

    def losses(
        self, rows: TokenRows, edit: HookEdit
    ) -> tuple[Float[Tensor, " predictions"], Float[Tensor, "predictions d_vocab"]]:
        """:meth:`Model.losses` with an edit from `hook` to `target` of the activations within the norm limit."""
        return self.model.losses(rows, self.hook, self._limited(edit), self.target)

    def ablated(self, rows: TokenRows, edit: HookEdit) -> Float[Tensor, " predictions"]:
        """The losses with an edit of the activations that dictionaries reconstruct, within the norm limit."""
        return self.model.losses(rows, self.target or self.hook, self._limited(edit))[0]

    def _limited(self, edit: HookEdit) -> HookEdit:
        return edit if self.norm_limit is None else edit_within_norm(edit, self.norm_limit)

    @cached_property
    def model(self) -> Model:
        """The model, loaded on first use."""
        return self.boot()
