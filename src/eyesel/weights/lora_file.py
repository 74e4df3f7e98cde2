"""LoRA files of every family, read: kohya's, LyCORIS', ComfyUI's, diffusers' and PEFT's.

A file is read into changes of modules as it spells them; a painter's own names then say which of its weights they are
for. What a file is scaled by follows those who wrote it: alpha / rank, or 1 where there is no alpha, or one of 0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.nn.lora import Change
from eyesel.weights import families
from eyesel.weights.files import open_tensors, read_json, read_tensor_metadata
from eyesel.weights.load import listed
from eyesel.weights.lora_factors import Module, module_of
from eyesel.weights.lora_spelling import PARTS, WRAPPER, Target, other_family, split
from eyesel.weights.painter import refuse
from eyesel.weights.peft_config import PeftConfig, from_adapter_config, from_metadata
from eyesel.weights.recognise import family_of_tensors
from eyesel.weights.views import StoredTensor

CONTEXTS = {768: families.SD1.name, 1024: families.SD2.name, 2048: families.SDXL.name, 1280: families.REFINER.name}
_CONTEXT = re.compile(r"attn2[._](processor[._])?to_[kv]$")

# What programs write into the metadata: the beginnings of `ss_base_model_version` and `modelspec.architecture`.
_BASES = {
    "sd_v1": families.SD1.name,
    "sd_v2": families.SD2.name,
    "sdxl_": families.SDXL.name,
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
    "stable-diffusion-v1": families.SD1.name,
    "stable-diffusion-v2": families.SD2.name,
    "stable-diffusion-xl-v1-base": families.SDXL.name,
    "stable-diffusion-3": "Stable Diffusion 3",
}

Changed = dict[str, dict[str, Change]]  # by part and parameter


@dataclass(frozen=True, eq=False)
class StoredLora:
    """A LoRA in its file: `modules` under the file's names, and the vectors of words that some bring along."""

    where: str
    modules: Mapping[str, Module]
    metadata: Mapping[str, str]
    words: Mapping[str, Mapping[str, StoredTensor]]

    @property
    def context_dim(self) -> int | None:
        """The numbers a token that the cross-attention reads, which tell the families apart."""
        widths = (module.columns for name, module in self.modules.items() if _CONTEXT.search(name))
        return next((width for width in widths if width), None)

    @property
    def base(self) -> str | None:
        """The family that it was made for; None if neither its shapes nor its metadata say."""
        return CONTEXTS.get(self.context_dim or 0) or other_family(self.modules) or _stated_base(self.metadata)

    def changes(self, unet: UNet, text_encoders: Sequence[ClipText], known: Mapping[str, Target]) -> Changed:
        """The changes of a painter's parameters, by part and name; `known` are its `targets`.

        Raises `CheckpointError` where the LoRA is for another family, or does not fit to the last name and shape.
        """
        self._check_base(unet.config.context_dim)
        if unknown := [name for name in self.modules if name not in known]:
            raise CheckpointError(
                f"{self.where} changes modules that this checkpoint does not have: {listed(unknown)}; "
                "take a LoRA that was made for it."
            )
        models = dict(zip(PARTS, (unet, *text_encoders), strict=False))
        parameters = {part: dict(model.named_parameters()) for part, model in models.items()}
        found: Changed = {part: {} for part in models}
        problems = []
        for module, own in self.modules.items():
            part, path = known[module]
            for leaf, change in own.changes.items():
                name = f"{path}.{leaf}"
                if name not in parameters[part]:
                    problems.append(f"{module} has no {leaf}")
                elif not change.fits(parameters[part][name].shape):
                    problems.append(f"the factors of {module} do not make {tuple(parameters[part][name].shape)}")
                elif name in found[part]:
                    problems.append(f"{module} is there under two names")
                else:
                    found[part][name] = change
        if problems:
            raise CheckpointError(f"{self.where} does not fit this checkpoint: {listed(problems)}.")
        return found

    def _check_base(self, context_dim: int) -> None:
        own, base, family = self.context_dim, self.base, CONTEXTS.get(context_dim)
        wide = own not in (None, context_dim)
        stated = own is None and None not in (base, family) and base != family
        if wide or stated or other_family(self.modules):
            numbers = f" (a context of {own} numbers)" if own else ""
            raise CheckpointError(
                f"{self.where} is a LoRA for {base or 'another model'}{numbers}, and the checkpoint is "
                f"{family or 'one'} of {context_dim}: take a LoRA that was made for it."
            )


def _stated_base(metadata: Mapping[str, str]) -> str | None:
    stated = (metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", ""))
    return next((base for start, base in _BASES.items() if any(text.startswith(start) for text in stated)), None)


# --- opening


def open_lora(path: str | Path) -> StoredLora:
    """A file of any family, a PEFT adapter's folder or one with an adapter for each part, or one of diffusers.

    Raises `CheckpointError` for everything else, and for files that are cut short or hold more than a LoRA.
    """
    path = Path(path).expanduser()
    if path.stem == "adapter_model" and (path.parent / _CONFIG).is_file():
        path = path.parent
    with readable(path):
        if path.is_dir():
            of_diffusers = next((path / name for name in _DIFFUSERS if (path / name).is_file()), None)
            return _open_file(of_diffusers) if of_diffusers else _open_adapters(path)
        if not path.is_file():
            raise CheckpointError(f"there is no LoRA {path}: check the path.")
        return _open_file(path)


_CONFIG = "adapter_config.json"
_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")


def is_lora_folder(path: Path) -> bool:
    adapters = (path, *(path / part for part in PARTS))
    return any((path / name).is_file() for name in _DIFFUSERS) or any((each / _CONFIG).is_file() for each in adapters)


def _open_file(path: Path) -> StoredLora:
    tensors, metadata = open_tensors([path]), read_tensor_metadata(path)
    return _stored(path, tensors, metadata, from_metadata(metadata, str(path)))


def _open_adapters(path: Path) -> StoredLora:
    """PEFT: a folder is the adapter of one model, which its name may tell; or it holds one folder for each."""
    if (path / _CONFIG).is_file():
        folders = {f"{path.name}." if path.name in PARTS else "": path}
    else:
        folders = {f"{part}.": path / part for part in PARTS if (path / part / _CONFIG).is_file()}
    if not folders:
        raise CheckpointError(
            f"the folder {path} holds no LoRA: neither pytorch_lora_weights.safetensors nor {_CONFIG}."
        )
    tensors: dict[str, StoredTensor] = {}
    configs = {}
    for prefix, folder in folders.items():
        files = [folder / f"adapter_model.{suffix}" for suffix in ("safetensors", "bin")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise CheckpointError(f"{folder} has no adapter_model.safetensors: it is not a complete adapter.")
        own = open_tensors([file])
        tensors |= {prefix + name.removeprefix(WRAPPER): stored for name, stored in own.items()}
        configs[prefix] = from_adapter_config(read_json(folder / _CONFIG), str(folder))
    return _stored(path, tensors, {}, configs)


_BUNDLED = re.compile(r"bundle_emb\.(?P<word>.+)\.(?:string_to_param\.\*|(?P<key>emb_params|clip_l|clip_g))")


def _stored(
    path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str], configs: Mapping[str, PeftConfig]
) -> StoredLora:
    by_module: dict[str, dict[str, StoredTensor]] = {}
    words: dict[str, dict[str, StoredTensor]] = {}
    unknown = []
    for name, stored in tensors.items():
        if bundled := _BUNDLED.fullmatch(name):
            words.setdefault(bundled["word"], {})[bundled["key"] or "emb_params"] = stored
        elif found := split(name.removeprefix(WRAPPER), tensors):
            module, factor = found
            by_module.setdefault(module, {})[factor] = stored
        else:
            unknown.append(name)
    family = family_of_tensors(tensors)
    if unknown and (by_module or family == "a LoRA"):
        raise CheckpointError(f"{path} has tensors of a kind that eyesel does not know in a LoRA: {listed(unknown)}.")
    if not by_module:
        raise refuse(path, family, "a LoRA")
    modules = {}
    for module, factors in by_module.items():
        prefix = next((prefix for prefix in configs if module.startswith(prefix)), "")
        config = configs.get(prefix, PeftConfig())
        modules[module] = module_of(module, factors, config, str(path), module.removeprefix(prefix))
    return StoredLora(str(path), modules, metadata, words)
