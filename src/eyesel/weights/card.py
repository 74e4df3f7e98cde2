"""What a model card says of licence and tags; a single file says it in its header, if at all."""

from dataclasses import dataclass
from pathlib import Path

from eyesel.errors import CheckpointError
from eyesel.weights.files import open_tensors, read_tensor_metadata


@dataclass(frozen=True)
class Card:
    """None and nothing where the card does not say, or is missing."""

    licence: str | None = None
    tags: tuple[str, ...] = ()


def read_card(path: Path) -> Card:
    """Of a folder its README.md (huggingface.co/docs/hub/model-cards), of a safetensors file its modelspec metadata.

    Raises `CheckpointError` for a card whose header is no YAML.
    """
    if path.is_file():
        open_tensors([path])
        told = read_tensor_metadata(path)
        tags = told.get("modelspec.tags", "").split(",")
        return Card(told.get("modelspec.license") or None, tuple(tag.strip() for tag in tags if tag.strip()))
    if not (path / "README.md").is_file():
        return Card()
    from huggingface_hub import ModelCard

    try:
        data = ModelCard((path / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # the errors of PyYAML, which is not eyesel's to know
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path / 'README.md'} cannot be read ({reason}): mend its header.") from None
    licence, tags = data.get("license"), data.get("tags") or []
    return Card(
        None if licence is None else str(data.get("license_name") if licence == "other" else licence),
        tuple(map(str, tags if isinstance(tags, list) else [tags])),
    )
