"""The original ViT checkpoints of Google Research (github.com/google-research/vision_transformer): .npz files of JAX.

Flax keeps matrices as (in, out), convolutions as (height, width, in, out), and the heads of attention apart.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from eyesel.errors import CheckpointError
from eyesel.models.vit import ViTConfig
from eyesel.weights.rename import RenameTable, Target
from eyesel.weights.views import StoredTensor, View
from eyesel.weights.vit_shape import Shapes, fields_of, positions_of, square

_LAYER = "Transformer/encoderblock_{}"
_ATTENTION = f"{_LAYER}/MultiHeadDotProductAttention_1"


def _both(theirs: str, ours: str, weight: str = "kernel") -> dict[str, Target]:
    return {f"{theirs}/{weight}": f"{ours}.weight", f"{theirs}/bias": f"{ours}.bias"}


GOOGLE = RenameTable(
    {
        "cls": "cls_token",
        "Transformer/posembed_input/pos_embedding": "position_embeddings",
        **_both("embedding", "patch_embeddings"),
        **_both(f"{_ATTENTION}/query", "layers.{}.attention.to_q"),
        **_both(f"{_ATTENTION}/key", "layers.{}.attention.to_k"),
        **_both(f"{_ATTENTION}/value", "layers.{}.attention.to_v"),
        **_both(f"{_ATTENTION}/out", "layers.{}.attention.to_out"),
        **_both(f"{_LAYER}/LayerNorm_0", "layers.{}.norm1", "scale"),
        **_both(f"{_LAYER}/LayerNorm_2", "layers.{}.norm2", "scale"),
        **_both(f"{_LAYER}/MlpBlock_3/Dense_0", "layers.{}.mlp.fc1"),
        **_both(f"{_LAYER}/MlpBlock_3/Dense_1", "layers.{}.mlp.fc2"),
        **_both("Transformer/encoder_norm", "norm", "scale"),
        **_both("pre_logits", "pooler"),
        **_both("head", "classifier"),
    }
)
SIGNATURE = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


def as_torch(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same arrays laid out as torch's modules have them, without optimiser state."""
    prefix = "opt/target/" if f"opt/target/{SIGNATURE}" in tensors else ""
    return {
        name.removeprefix(prefix): _laid_out(name, stored)
        for name, stored in tensors.items()
        if name.startswith(prefix)
    }


def heads_of(tensors: Mapping[str, StoredTensor]) -> int:
    """The number of heads, which these files tell: queries are (dim, heads, channels of each)."""
    shape = next(stored.shape for name, stored in tensors.items() if name.endswith(SIGNATURE))
    if len(shape) != 3:
        raise CheckpointError(f"{SIGNATURE} has the shape {shape}; it must have three dimensions.")
    return shape[1]


def _laid_out(name: str, stored: StoredTensor) -> StoredTensor:
    shape, change = stored.shape, _change(name, len(stored.shape))
    return stored if change is None else View((stored,), tuple(change(torch.empty(shape, device="meta")).shape), change)


def _change(name: str, dimensions: int) -> Callable[[Tensor], Tensor] | None:
    if name.endswith("/bias") and dimensions == 2:
        return lambda bias: bias.flatten()
    if not name.endswith("/kernel"):
        return None
    if dimensions == 4:
        return lambda kernel: kernel.permute(3, 2, 0, 1).contiguous()
    if dimensions == 3 and name.endswith("/out/kernel"):
        return lambda kernel: kernel.flatten(0, 1).t().contiguous()
    if dimensions == 3:
        return lambda kernel: kernel.flatten(1).t().contiguous()
    return (lambda kernel: kernel.t().contiguous()) if dimensions == 2 else None


def config_of_tensors(shapes: Shapes, heads: int) -> ViTConfig:
    """Its configuration: all that the file does not tell is the same in every one of them."""
    fields = fields_of(shapes)
    prefix = int(fields["class_token"])
    grid = square(positions_of(shapes) - prefix)
    if grid is None:
        raise CheckpointError(f"A ViT with {positions_of(shapes)} positions is not square; eyesel reads square ones.")
    through_pooler = fields["pooler"] and fields["classes"]
    return ViTConfig(
        image_size=(grid[0] * fields["patch_size"][0], grid[1] * fields["patch_size"][1]),
        heads=heads,
        # JAX computes GELU by its tanh approximation; transformers and timm, which made these weights known, do not
        activation="gelu",
        norm_eps=1e-6,
        prefix_positions=prefix,
        pooling="pooler" if through_pooler else "cls" if fields["class_token"] else "mean",
        **fields,
    )
