"""From a prompt to token ids: the byte-pair encoding of CLIP, through the `tokenizers` library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from eyesel.errors import CheckpointError

MAX_LENGTH = 77  # tokens, where tokenizer_config.json names no sensible number

# The words of CLIP (Radford et al. 2021, `simple_tokenizer.py`), as transformers' CLIPTokenizer writes them.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": None,
}


class ClipTokenizer:
    """Texts to ids, as transformers' CLIPTokenizer.

    `bos_id`, `eos_id` and `pad_id` are the ids around and after a text; `max_length` is what a text encoder reads at
    once, 77 for every Stable Diffusion. Immutable once loaded.
    """

    def __init__(
        self, tokenizer: Tokenizer, bos_id: int, eos_id: int, pad_id: int, max_length: int = MAX_LENGTH
    ) -> None:
        self._tokenizer = tokenizer
        self.bos_id, self.eos_id, self.pad_id, self.max_length = bos_id, eos_id, pad_id, max_length

    @classmethod
    def load(cls, folder: str | Path) -> "ClipTokenizer":
        """Read a folder with `tokenizer.json`, or `vocab.json` and `merges.txt`, and their configuration.

        Raises `CheckpointError` where a file is missing or cannot be used.
        """
        folder = Path(folder)
        special, max_length = _settings(folder)
        if (folder / "tokenizer.json").is_file():
            tokenizer = _from_tokenizer_json(folder / "tokenizer.json")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = _from_vocab(folder, special["unk_token"])
        else:
            raise CheckpointError(
                f"{folder} holds no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt."
            )
        ids = {role: _known_id(tokenizer, token, role, folder) for role, token in special.items()}
        tokenizer.add_special_tokens(list(special.values()))
        return cls(tokenizer, ids["bos_token"], ids["eos_token"], ids["pad_token"], max_length)

    def __len__(self) -> int:
        """The number of tokens that the text encoder must know."""
        return self._tokenizer.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        """The ids of a text of any length, without start and end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text as they stand in the vocabulary, without start and end."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    @property
    def comma_id(self) -> int | None:
        return self._tokenizer.token_to_id(",</w>")


def _known_id(tokenizer: Tokenizer, token: AddedToken, role: str, folder: Path) -> int:
    number = tokenizer.token_to_id(token.content)
    if number is None:
        raise CheckpointError(f"the {role} {token.content!r} is not in the vocabulary of {folder}: fetch it again.")
    return number


def _from_tokenizer_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise _unusable(path, error) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_vocab(folder: Path, unknown: AddedToken) -> Tokenizer:
    try:
        model = BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=unknown.content,
        )
    except Exception as error:
        raise _unusable(folder / "vocab.json and merges.txt", error) from None
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def _settings(folder: Path) -> tuple[dict[str, AddedToken], int]:
    """The special tokens by role and the length of a row; tokenizer_config.json wins over special_tokens_map.json."""
    config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    special = {role: _token(config.get(role) or default) for role, default in _SPECIAL.items() if role != "pad_token"}
    special["pad_token"] = _token(config["pad_token"]) if config.get("pad_token") else special["eos_token"]
    length = config.get("model_max_length") or MAX_LENGTH
    if not isinstance(length, (int, float)) or length < 3:
        raise CheckpointError(f"model_max_length {length!r} in {folder} leaves no room for a prompt: use 77.")
    return special, int(length) if length < 100_000 else MAX_LENGTH  # transformers writes 10^30 for "not known"


def _token(value: Any) -> AddedToken:
    """A special token as text, or as the record in which transformers saves it."""
    record = value if isinstance(value, Mapping) else {"content": value}
    if not isinstance(record.get("content"), str):
        raise CheckpointError(f"the special token {value!r} is no text: correct tokenizer_config.json.")
    flags = {key: bool(record.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(record["content"], special=True, **flags)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of settings: fetch it again.")
    return content


def _unusable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({str(error).splitlines()[0]}): fetch it again.")
