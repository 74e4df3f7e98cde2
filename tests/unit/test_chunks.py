"""Where a text is cut, and the words that stand for learned vectors."""

import pytest

from eyesel.text.chunks import LearnedWords, Token, chunks, cut
from eyesel.text.tokenizer import ClipTokenizer
from tiny_models import write_tokenizer

COMMA = 1


def tokens(length, *commas):
    return [Token(COMMA if i in commas else 9, 1.0) for i in range(length)]


@pytest.mark.parametrize(
    ("length", "commas", "expected"),
    [
        (0, [], [0]),
        (75, [], [75]),
        (76, [], [75, 1]),
        (225, [], [75, 75, 75]),
        (100, [54], [75, 25]),  # 20 tokens behind it: too far back
        (100, [55], [56, 44]),
        (100, [55, 60], [61, 39]),
        (100, [74], [75, 25]),
        (100, [60, 75], [75, 25]),  # the comma does not fit, and opens the next chunk
        (160, [60, 130], [61, 70, 29]),
    ],
)
def test_cut_behind_a_comma(length, commas, expected):
    pieces = list(cut(tokens(length, *commas), 75, COMMA))
    assert [len(piece) for piece in pieces] == expected
    assert [token for piece in pieces for token in piece] == tokens(length, *commas)


def test_a_learned_word_is_not_cut():
    word = [Token(-1, 1.0), Token(-2, 1.0, joined=True), Token(-3, 1.0, joined=True)]
    pieces = list(cut([*tokens(73, 70), *word, *tokens(1)], 75, COMMA))
    assert [len(piece) for piece in pieces] == [73, 4]
    assert [len(piece) for piece in cut([*word, *word], 3, COMMA)] == [3, 3]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, pad="!")
    return ClipTokenizer.load(folder)


def test_rows(tokenizer):
    t = tokenizer
    fox, owl = t.ids("fox"), t.ids("owl")
    first, second = chunks("(fox:1.5) BREAK owl BREAK ", t)
    assert first.ids == [t.bos_id, *fox, t.eos_id] + [t.pad_id] * 74
    assert first.weights == [1.0, 1.5] + [1.0] * 75
    assert second.ids == [t.bos_id, *owl, t.eos_id] + [t.pad_id] * 74 and set(second.weights) == {1.0}
    assert [len(chunks(text, t)) for text in ("", "BREAK fox", "fox BREAK BREAK owl", "fox " * 75, "fox " * 76)] == [
        1,
        2,
        3,
        1,
        2,
    ]
    [literal] = chunks("(fox:1.5) BREAK", t, weighted=False)
    assert literal.ids[1:] != first.ids[1:] and set(literal.weights) == {1.0}


def test_learned_words(tokenizer):
    words = LearnedWords({"my-fox": [-1, -2], "<my-fox>": [-3], "fox": [-4], "ſ": [-5]})
    [chunk] = chunks("a (My-Fox:1.5), <my-fox>, fox foxes S", tokenizer, words=words)
    ids = [i for i in chunk.ids if i < 0]
    assert ids == [-1, -2, -3, -4, -5]
    assert [w for i, w in zip(chunk.ids, chunk.weights, strict=True) if i in (-1, -2)] == [1.5, 1.5]
    assert chunk.ids[1:2] == tokenizer.ids("a")
