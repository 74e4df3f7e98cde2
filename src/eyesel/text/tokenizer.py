"""From a prompt to token ids: the byte-pair encoding of CLIP, through the `tokenizers` library."""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from eyesel.errors import CheckpointError

MAX_LENGTH = 77  # tokens, where tokenizer_config.json names no sensible number
MERGES = Path(__file__).parents[1] / "assets" / "clip" / "merges.txt.gz"

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

    @classmethod
    def bundled(cls, pad: str = "<|endoftext|>") -> "ClipTokenizer":
        """The vocabulary that CLIP was published with; OpenCLIP's encoders pad with "!", which is id 0."""
        vocab, merges = _clip_vocabulary()
        tokenizer = _byte_pairs(BPE(vocab, merges, **_SUFFIXES))
        tokenizer.add_special_tokens([_token(each) for each in ("<|startoftext|>", "<|endoftext|>", pad)])
        return cls(tokenizer, vocab["<|startoftext|>"], vocab["<|endoftext|>"], vocab[pad])

    def save(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt and their configuration, as transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = json.loads(self._tokenizer.to_str())["model"]
        if len(model["vocab"]) != len(self.vocabulary):
            raise CheckpointError(f"A tokenizer of {len(self)} tokens, some of them added, has no place in {folder}.")
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        special = {
            "bos_token": self._tokenizer.id_to_token(self.bos_id),
            "eos_token": self._tokenizer.id_to_token(self.eos_id),
            "unk_token": self._tokenizer.id_to_token(self.eos_id),
            "pad_token": self._tokenizer.id_to_token(self.pad_id),
        }
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.max_length, **special}
        for name, text in {
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
            "special_tokens_map.json": json.dumps(special, indent=2),
            "tokenizer_config.json": json.dumps(config, indent=2),
        }.items():
            (folder / name).write_text(text, encoding="utf-8")

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        return self._tokenizer.get_vocab()

    def __len__(self) -> int:
        """The number of tokens that the text encoder must know."""
        return max(self.vocabulary.values()) + 1

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


_SUFFIXES: dict[str, Any] = {
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "</w>",
    "unk_token": "<|endoftext|>",
}


def _from_vocab(folder: Path, unknown: AddedToken) -> Tokenizer:
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    try:
        model = BPE.from_file(*files, **{**_SUFFIXES, "unk_token": unknown.content})
        merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    except Exception as error:
        raise _unusable(folder / "vocab.json and merges.txt", error) from None
    if not any(line.strip() and not line.startswith("#version") for line in merges):
        raise CheckpointError(f"{folder / 'merges.txt'} holds no merges: fetch it again.")
    return _byte_pairs(model)


def _byte_pairs(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


@cache
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ids follow from the merges: bytes, bytes that end a word, merges in their order, start and end."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in map(str.split, lines)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


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
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of settings: fetch it again.")
    return content


def _unusable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({str(error).splitlines()[0]}): fetch it again.")
