"""The shape of a ViT as its tensors tell it, whatever the format; what they cannot tell is the format's to say."""

import math
from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


def fields_of(shapes: Shapes) -> dict[str, Any]:
    """Fields of a `ViTConfig`, given the shapes under our names: all but heads, activation, norm_eps, pooling,
    image_size, prefix_positions and the rules of resampling.
    """
    dim, channels, *patch_size = _shape(shapes, "patch_embeddings.weight", 4)
    swiglu = "layers.0.mlp.gate.weight" in shapes
    return {
        "patch_size": tuple(patch_size),
        "channels": channels,
        "dim": dim,
        "depth": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers.")),
        "mlp_dim": _shape(shapes, "layers.0.mlp.gate.weight" if swiglu else "layers.0.mlp.fc1.weight", 2)[0],
        "qkv_bias": "layers.0.attention.to_q.bias" in shapes,
        "embedding_norm": "embedding_norm.weight" in shapes,
        "layer_scale": "layers.0.scale1.gamma" in shapes,
        "swiglu": swiglu,
        "pooled_norm": "pooled_norm.weight" in shapes,
        **parts_of(shapes),
    }


def parts_of(shapes: Shapes) -> dict[str, Any]:
    """Those of them that no configuration file states."""
    return {
        "class_token": "cls_token" in shapes,
        "distillation_token": "distillation_token" in shapes,
        "distillation_head": "distillation_classifier.weight" in shapes,
        "registers": shapes.get("register_tokens", (1, 0))[1],
        "pooler": "pooler.weight" in shapes,
        "classes": shapes.get("classifier.weight", (0,))[0],
    }


def positions_of(shapes: Shapes) -> int:
    """How many position embeddings there are."""
    return _shape(shapes, "position_embeddings", 3)[1]


def square(patches: int) -> tuple[int, int] | None:
    """Rows and columns of so many patches, if they can be a square."""
    side = math.isqrt(max(patches, 0))
    return (side, side) if side * side == patches > 0 else None


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(
            f"This ViT has no {name}: it computes in a way that eyesel does not, or its file is not whole."
        )
    if len(shape) != dimensions:
        raise CheckpointError(f"This ViT has {name} as {shape}; it must have {dimensions} dimensions.")
    return shape
