"""IP-Adapter files (Ye et al. 2023) for Stable Diffusion: plain, plus (its face variant too) and full face.

    image_proj.*                           from what CLIP sees to tokens
    ip_adapter.{1,3,5,...}.to_{k,v}_ip.weight   of the cross-attention layers in diffusers' order: down, up, middle

In safetensors files these are names; in `.bin` files two tables, read by the restricted unpickler. Those of FaceID read
what a face recogniser says, which eyesel does not have, and are refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import readable
from eyesel.models.image_blocks import Blocks, cross_attention, layer_scales
from eyesel.models.ip_adapter import (
    FullFaceConfig,
    FullFaceProjection,
    ImagePrompt,
    PlainConfig,
    PlainProjection,
    PlusConfig,
    Projection,
    Resampler,
    image_prompt,
)
from eyesel.models.unet import UNet
from eyesel.nn.attention import Attention
from eyesel.nn.image_attention import ImageKeys, with_image_keys
from eyesel.weights.files import held_tensors, open_tensors, read_pickle
from eyesel.weights.image_encoder import StoredImageEncoder, open_image_encoder
from eyesel.weights.load import StoredModel, listed, renamed, shapes_of
from eyesel.weights.lora_file import CONTEXTS
from eyesel.weights.painter import refuse
from eyesel.weights.recognise import family_of_tensors
from eyesel.weights.rename import RenameTable
from eyesel.weights.views import StoredTensor

PARTS = ("image_proj", "ip_adapter")
_LAYER = re.compile(r"(\d+)\.to_([kv])_ip\.weight")
_HEAD_DIM = 64  # of every resampler that was published; files do not say it
Shapes = Mapping[str, tuple[int, ...]]

_PLAIN = RenameTable({"proj.{}": "proj.{}", "norm.{}": "norm.{}"})
_FULL_FACE = RenameTable({"proj.0.{}": "fc1.{}", "proj.2.{}": "fc2.{}", "proj.3.{}": "norm.{}"})
_PLUS = RenameTable(
    {
        "latents": "latents",
        "proj_in.{}": "proj_in.{}",
        "proj_out.{}": "proj_out.{}",
        "norm_out.{}": "norm_out.{}",
        "layers.{}.0.norm1.{}": "layers.{}.norm_image.{}",
        "layers.{}.0.norm2.{}": "layers.{}.norm_latents.{}",
        "layers.{}.0.to_q.weight": "layers.{}.to_q.weight",
        "layers.{}.0.to_kv.weight": ("layers.{}.to_k.weight", "layers.{}.to_v.weight"),
        "layers.{}.0.to_out.weight": "layers.{}.to_out.weight",
        "layers.{}.1.0.{}": "layers.{}.norm_mlp.{}",
        "layers.{}.1.1.weight": "layers.{}.fc1.weight",
        "layers.{}.1.3.weight": "layers.{}.fc2.weight",
    }
)


def _plain(shapes: Shapes) -> PlainConfig:
    numbers, image_dim = shapes["proj.weight"]
    context_dim = shapes["norm.weight"][0]
    return PlainConfig(image_dim=image_dim, context_dim=context_dim, tokens=numbers // context_dim)


def _full_face(shapes: Shapes) -> FullFaceConfig:
    context_dim, image_dim = shapes["fc2.weight"]
    return FullFaceConfig(image_dim=image_dim, context_dim=context_dim)


def _plus(shapes: Shapes) -> PlusConfig:
    dim, image_dim = shapes["proj_in.weight"]
    return PlusConfig(
        image_dim=image_dim,
        dim=dim,
        context_dim=shapes["proj_out.weight"][0],
        tokens=shapes["latents"][1],
        depth=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers.")),
        heads=shapes["layers.0.to_q.weight"][0] // _HEAD_DIM,
        head_dim=_HEAD_DIM,
        mlp_dim=shapes["layers.0.fc1.weight"][0],
    )


class _Kind(NamedTuple):
    """`widths` names the image encoders by the numbers that they give to this kind."""

    name: str
    table: RenameTable
    config: Callable[[Shapes], Any]
    model: Callable[[Any], Projection]
    widths: Mapping[int, str]


_OF_TOKENS = {1024: "ViT-L/14", 1280: "ViT-H/14", 1664: "ViT-bigG/14"}
_KINDS = {  # by a name that only this kind has
    "proj.weight": _Kind(
        "plain", _PLAIN, _plain, PlainProjection, {768: "ViT-L/14", 1024: "ViT-H/14", 1280: "ViT-bigG/14"}
    ),
    "proj.3.weight": _Kind("full face", _FULL_FACE, _full_face, FullFaceProjection, _OF_TOKENS),
    "latents": _Kind("plus", _PLUS, _plus, Resampler, _OF_TOKENS),
}


@dataclass(frozen=True, eq=False)
class StoredIpAdapter:
    """An IP-Adapter in its file; `keys` are the matrices (k, v) of each cross-attention layer."""

    where: Path
    kind: _Kind
    projection: StoredModel[Any]
    keys: Sequence[tuple[StoredTensor, StoredTensor]]

    @property
    def context_dim(self) -> int:
        return self.projection.config.context_dim

    @property
    def image_dim(self) -> int:
        return self.projection.config.image_dim

    @property
    def base(self) -> str | None:
        return CONTEXTS.get(self.context_dim)

    @property
    def wants(self) -> str:
        """The image encoder that it was made for, in words."""
        known = self.kind.widths.get(self.image_dim)
        return f"CLIP's {known}" if known else f"one of {self.image_dim} numbers"

    def image_keys(self, unet: UNet, scales: Mapping[str, float]) -> dict[str, ImageKeys]:
        """The matrices by the path of their layer. Raises `CheckpointError` where they are for another UNet."""
        if self.context_dim != unet.config.context_dim:
            raise CheckpointError(
                f"{self.where} is an IP-Adapter for {self.base or 'another model'} (a context of {self.context_dim} "
                f"numbers), and the checkpoint is {CONTEXTS.get(unet.config.context_dim) or 'one'} of "
                f"{unet.config.context_dim}: take an adapter that was made for it."
            )
        paths = [path for paths in cross_attention(unet).values() for path in paths]
        if len(paths) != len(self.keys):
            raise CheckpointError(
                f"{self.where} is for {len(self.keys)} cross-attention layers and the checkpoint has {len(paths)}: "
                "take an adapter that was made for it."
            )
        like, found = unet.conv_in.weight, {}
        for path, pair in zip(paths, self.keys, strict=True):
            shape = tuple(cast("Attention", unet.get_submodule(path)).to_k.weight.shape)
            if any(tuple(stored.shape) != shape for stored in pair):
                raise CheckpointError(
                    f"{self.where} has matrices of {tuple(pair[0].shape)} for {path}, which is {shape}: "
                    "take an adapter that was made for this checkpoint."
                )
            to_k, to_v = (stored.read().to(like.device, like.dtype) for stored in pair)
            found[path] = ImageKeys(to_k, to_v, scales[path])
        return found

    def check_encoder(self, encoder: StoredImageEncoder) -> None:
        config = encoder.model.config
        width = config.projection_dim if self.kind.name == "plain" else config.dim
        if width != self.image_dim:
            raise CheckpointError(
                f"{self.where} reads {self.image_dim} numbers of a picture and the image encoder {encoder.where} gives "
                f"{width}: name {self.wants} with image_encoder (--image-encoder)."
            )


def open_ip_adapter(path: str | Path) -> StoredIpAdapter:
    """A safetensors or `.bin` file. Raises `CheckpointError` for what is none, and for those of FaceID."""
    where = Path(path).expanduser()
    if not where.is_file():
        raise CheckpointError(f"There is no file {where}: name an IP-Adapter.")
    with readable(where):
        return _open(where)


def _open(where: Path) -> StoredIpAdapter:
    parts = _parts(where)
    kind = next((kind for sign, kind in _KINDS.items() if sign in parts["image_proj"]), None)
    if kind is None or any("_lora." in name for name in parts["ip_adapter"]):
        what = "an IP-Adapter FaceID, which needs a face recogniser" if _is_faceid(parts) else "no IP-Adapter"
        raise CheckpointError(f"{where} is {what}: take a plain, plus, plus-face or full-face one.")
    layers: dict[tuple[int, str], StoredTensor] = {}
    for name, stored in parts["ip_adapter"].items():
        found = _LAYER.fullmatch(name)
        if found is None:
            raise CheckpointError(f"{where} has ip_adapter.{name}, which no IP-Adapter has: download it again.")
        layers[int(found[1]), found[2]] = stored
    numbers = sorted({number for number, _ in layers})
    if lacking := [f"{n}.to_{leaf}_ip" for n in numbers for leaf in "kv" if (n, leaf) not in layers]:
        raise CheckpointError(f"{where} lacks {listed(lacking)}: download it again.")
    ours = renamed(parts["image_proj"], kind.table, str(where))
    projection: StoredModel[Any] = StoredModel(kind.model, kind.config(shapes_of(ours)), ours, str(where))
    projection.check()
    return StoredIpAdapter(where, kind, projection, [(layers[n, "k"], layers[n, "v"]) for n in numbers])


def _parts(where: Path) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of each of `PARTS`, by their names in it."""
    if where.suffix == ".safetensors":
        tensors = open_tensors([where])
        parts = {
            part: {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
            for part in PARTS
        }
        if not all(parts.values()) or sum(map(len, parts.values())) < len(tensors):
            raise refuse(where, family_of_tensors(tensors), "an IP-Adapter")
        return parts
    tables = read_pickle(where)
    if not isinstance(tables, Mapping) or not all(isinstance(tables.get(part), Mapping) for part in PARTS):
        named = [str(name) for name in tables] if isinstance(tables, Mapping) else []
        raise refuse(where, family_of_tensors(named), "an IP-Adapter")
    return {part: held_tensors(tables[part], where) for part in PARTS}


def _is_faceid(parts: Mapping[str, Mapping[str, StoredTensor]]) -> bool:
    names = parts["image_proj"]
    return any("_lora." in name for name in parts["ip_adapter"]) or any(
        name.startswith(("perceiver_resampler.", "norm.")) for name in names
    )


def with_image_prompt(
    unet: UNet,
    adapter: str | Path,
    images: Any,
    scale: float = 1.0,
    blocks: Blocks = "all",
    image_encoder: str | Path | None = None,
) -> tuple[UNet, ImagePrompt]:
    """A replica of the UNet that looks at the tokens of pictures, too, and these tokens.

    `images` is one picture or a list of them, each what `open_image` takes. `image_encoder` is by default the folder
    of that name beside the adapter. Raises `CheckpointError`, `ImageError` and `SettingError`.
    """
    pictures = list(images) if isinstance(images, list | tuple) else [images]
    if not pictures:
        raise SettingError("There is no picture for the image prompt: give at least one.")
    stored = open_ip_adapter(adapter)
    keys = stored.image_keys(unet, layer_scales(unet, scale, blocks))
    encoder = open_image_encoder(stored.where.parent / "image_encoder" if image_encoder is None else image_encoder)
    stored.check_encoder(encoder)
    like = unet.conv_in.weight
    seen, nothing = encoder.features(pictures, like.device, like.dtype)
    projection = stored.projection.load(like.device, str(like.dtype).removeprefix("torch."))
    with torch.inference_mode():
        prompt = image_prompt(projection, seen, nothing)
    return with_image_keys(unet, keys), prompt
