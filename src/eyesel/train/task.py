"""What Trainer trains: a module around one of our models that takes a batch and gives a loss."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from eyesel.errors import SettingError


class Task(nn.Module):
    """A child has a `forward` with the names of the batch (`labels` among them where it is to be evaluated) that
    returns `{"loss": ..., "logits": ...}`, and says in `blocks` what activations can be computed again for.
    """

    config = None  # Trainer asks for that of transformers' models

    def blocks(self) -> Iterable[nn.Module]:
        return ()

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Forget what is inside every n-th block and compute it again on the way back (Chen et al. 2016)."""
        if offload:
            raise SettingError("activation_checkpointing_kwargs has offload, which eyesel's models have not: leave it.")
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        for i, block in enumerate(self.blocks()):
            if i % every_n_layers == 0:
                block.forward = partial(checkpoint, block.forward, **options)
