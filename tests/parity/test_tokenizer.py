"""ClipTokenizer against transformers' CLIPTokenizer, on a small vocabulary made here."""

import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from eyesel.errors import CheckpointError
from eyesel.text.chunks import chunks
from eyesel.text.tokenizer import ClipTokenizer

SENTENCES = [
    "a large fox on a blue background. it's a small owl, isn't it? they've seen 42 red apples; we'll paint",
    "the café in São Paulo at night, naïve and über-bright, 1girl, masterpiece (best quality:1.2), [oil|watercolour]",
    "她在画一只狐狸 キツネの絵 лиса на синем фоне αλεπού 🦊🎨 wow! an astronaut riding a horse, <lora:x> on artstation",
]

NASTY = [
    "",
    " ",
    "a large fox on a blue background",
    "A LARGE Fox",
    "it's they've I'LL don't 'quoted' ''s",
    "Café naïve cafe\u0301 ÅNGSTRÖM ﬁne İstanbul straße ẞ",
    "🦊 a 👩‍👩‍👧‍👦 family 🏳️‍🌈🦊🦊",
    "123 4.5 ⅷ ² 1girl 2024-01-01 ٣",
    "她在画一只狐狸 キツネ 여우",
    "many     spaces\tand\n\nnew lines\u00a0and\u3000wide ones",
    "control \x00\x01\x1b[31m \ufeff \u200b \u200e characters \x7f",
    "before <|endoftext|> after <|startoftext|>!",
    "<|ENDOFTEXT|> <|endoftext|",
    "wow! so!!! much ! punctuation?! (a:1.2), [b|c] {d} <lora:x:0.5>",
    "under_score-hyphen/slash\\back #tag @me $5 50% ~ `code`",
    "ａｂｃ ℌ 𝔣𝔬𝔵 ｶﾞ",
    "fox " * 10_000,
    "x" * 5_000,
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with vocab.json and merges.txt in CLIP's layout: bytes, bytes ending a word, merges, start, end."""
    folder = tmp_path_factory.mktemp("vocabulary")
    trained = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'\w+|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator(SENTENCES * 3, trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    vocab = ["!", *(byte for byte in alphabet if byte != "!"), *(byte + "</w>" for byte in alphabet)]
    vocab += dict.fromkeys("".join(merge) for merge in merges if "".join(merge) not in vocab)
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    return folder


def with_settings(vocabulary, folder, **settings):
    """A copy of the vocabulary with a tokenizer_config.json."""
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((vocabulary / name).read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **settings}))
    return folder


def record(content: str, normalized: bool = True) -> dict:
    """A special token as old transformers saved it."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": normalized}
    return {"__type": "AddedToken", "content": content, **flags}


SETTINGS = {
    "bare": {"model_max_length": 77},
    "SD 1": {
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "bos_token": record("<|startoftext|>"),
        "eos_token": record("<|endoftext|>"),
        "unk_token": record("<|endoftext|>"),
    },
    "SD 2": {"model_max_length": 77, "pad_token": "!"},
    "short": {"model_max_length": 11, "pad_token": "!", "eos_token": record("<|endoftext|>", normalized=False)},
}


def same(ours: ClipTokenizer, theirs) -> None:
    expected = theirs(NASTY, padding="max_length", max_length=ours.max_length, truncation=True).input_ids
    for text, row in zip(NASTY, expected, strict=True):
        ids = ours.ids(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids, text[:100]
        assert ours.tokens(text) == theirs.tokenize(text), text[:100]
        if len(ids) <= ours.max_length - 2:
            assert [chunk.ids for chunk in chunks(text, ours, weighted=False)] == [row], text[:100]


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_transformers_from_vocab_and_merges(name, vocabulary, tmp_path):
    folder = with_settings(vocabulary, tmp_path, **SETTINGS[name])
    ours, theirs = ClipTokenizer.load(folder), CLIPTokenizer.from_pretrained(folder)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.max_length == SETTINGS[name]["model_max_length"]
    assert len(ours) == len(theirs)
    same(ours, theirs)


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_transformers_from_its_tokenizer_json(name, vocabulary, tmp_path):
    theirs = CLIPTokenizer.from_pretrained(with_settings(vocabulary, tmp_path, **SETTINGS[name]))
    theirs("set truncation and padding", padding="max_length", max_length=5, truncation=True)
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    same(ClipTokenizer.load(tmp_path / "saved"), CLIPTokenizer.from_pretrained(tmp_path / "saved"))


def test_added_tokens_of_a_tokenizer_json(vocabulary, tmp_path):
    theirs = CLIPTokenizer.from_pretrained(with_settings(vocabulary, tmp_path, model_max_length=77))
    theirs.add_tokens(AddedToken("<my-fox>", normalized=False))
    theirs.save_pretrained(tmp_path / "saved")
    ours = ClipTokenizer.load(tmp_path / "saved")
    assert ours.tokens("a <my-fox>, red") == theirs.tokenize("a <my-fox>, red")
    assert "<my-fox>" in ours.tokens("a <my-fox>, red")
    assert len(ours) == len(theirs)


def test_special_tokens_map_and_no_settings_at_all(vocabulary, tmp_path):
    assert ClipTokenizer.load(vocabulary).max_length == 77
    folder = with_settings(vocabulary, tmp_path, model_max_length=1000000000000000019884624838656)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": record("!")}))
    tokenizer = ClipTokenizer.load(folder)
    assert (tokenizer.max_length, tokenizer.pad_id) == (77, 0)


def test_a_row(vocabulary):
    tokenizer = ClipTokenizer.load(vocabulary)
    [chunk] = chunks("a fox", tokenizer)
    length = len(tokenizer.tokens("a fox"))
    assert chunk.ids[0] == tokenizer.bos_id
    assert chunk.ids[length + 1 :] == [tokenizer.eos_id] * (77 - length - 1)
    assert tokenizer.tokens("a large fox")[0] == "a</w>"
    assert tokenizer.tokens("a, b")[1] == ",</w>" and tokenizer.ids("a, b")[1] == tokenizer.comma_id


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", None),
        ("merges.txt", None),
        ("vocab.json", "{"),
        ("vocab.json", '{"a": 0}'),
        ("merges.txt", "no merge at all"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "\x00"),
        ("tokenizer_config.json", '{"pad_token": "<pad>"}'),
        ("tokenizer_config.json", '{"bos_token": {"lstrip": false}}'),
        ("tokenizer_config.json", '{"model_max_length": 2}'),
    ],
)
def test_missing_and_corrupt_files(file, content, vocabulary, tmp_path):
    folder = with_settings(vocabulary, tmp_path)
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as error:
        ClipTokenizer.load(folder)
    assert str(folder) in str(error.value) or "tokenizer_config.json" in str(error.value)
    assert "\n" not in str(error.value)
