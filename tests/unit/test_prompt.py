r"""The language of prompts. The examples are those of AUTOMATIC1111's documentation and of its `prompt_parser.py`."""

import pytest

from eyesel.errors import SettingError
from eyesel.text.prompt import Lora, emphasis, loras, parse, subprompts
from eyesel.text.schedule import schedule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("[less]", [("less", 1 / 1.1)]),
        ("[[less", [("less", 1 / 1.21)]),
        ("((more))", [("more", 1.21)]),
        ("(a : 1.5 ) b", [("a ", 1.5), (" b", 1.0)]),
        ("(a:-1)(b:.5)(c:2.)", [("a", -1.0), ("b", 0.5), ("c", 2.0)]),
        (r"\\ \[a\] \(b:1.2\)", [(r"\ [a] (b:1.2)", 1.0)]),
        (r"back\slash \ alone", [(r"back\slash \ alone", 1.0)]),
        ("stray) a:1.2) ]", [("stray) a:1.2) ]", 1.0)]),
        ("(over [lapping) brackets]", [("over ", 1.1), ("lapping", 1.0), (" brackets", 1 / 1.1)]),
        ("(a:nan) (b:1.2.3) (c:1e9)", [("a:nan", 1.1), (" ", 1.0), ("b:1.2.3", 1.1), (" ", 1.0), ("c:1e9", 1.1)]),
        ("10:30, ratio 16:9", [("10:30, ratio 16:9", 1.0)]),
        ("", []),
        ("()", []),
        ("(:1.2)", []),
    ],
)
def test_emphasis(text, expected):
    [section] = emphasis(text)
    assert [piece for piece, _ in section] == [piece for piece, _ in expected]
    assert [weight for _, weight in section] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [[("a", 1.0)], [("b", 1.0)]]),
        ("BREAK a ", [[], [("a ", 1.0)]]),
        ("a BREAK\n", [[("a", 1.0)], []]),
        ("a BREAKBREAK b BREAKfast", [[("a BREAKBREAK b BREAKfast", 1.0)]]),
        ("a\nBREAK, BREAK\nb", [[("a", 1.0)], [(",", 1.0)], [("b", 1.0)]]),
        ("(a BREAK b:1.5) c", [[("a", 1.5)], [("b", 1.5), (" c", 1.0)]]),
        ("a break b", [[("a break b", 1.0)]]),
    ],
)
def test_break(text, expected):
    assert emphasis(text) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [b:3 ]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(i, "(b:1.1)" if i % 2 == 0 else "a") for i in range(1, 11)]),
        ("[fe|]male", [(i, "male" if i % 2 == 0 else "female") for i in range(1, 11)]),
        ("[fe|||]male", [(i, "female" if i % 4 == 1 else "male") for i in range(1, 11)]),
        ("a [b::0.5] c", [(5, "a b c"), (10, "a  c")]),
        ("a [b:c:1.0]", [(10, "a b")]),
        ("a [b:c:0]", [(10, "a c")]),
        ("a [b:c:-3]", [(10, "a c")]),
        ("a [b:c:99]", [(10, "a b")]),
        ("a [b:c:nan] [d:e]", [(10, "a [b:c:nan] [d:e]")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        (r"\[a:b:3\] [a\:b:c\|d:3]", [(3, r"\[a:b:3\] a\:b"), (10, r"\[a:b:3\] c\|d")]),
        ("(a [b:c:3] d:1.2)", [(3, "(a b d:1.2)"), (10, "(a c d:1.2)")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), *((i, "c") for i in range(3, 11))]),
        ("[a:3) b]", [(10, "[a:3) b]")]),
    ],
)
def test_schedule(prompt, expected):
    assert schedule(prompt, 10) == expected


def test_schedule_of_the_documented_example():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(prompt, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


def test_subprompts():
    assert subprompts("a cat :1.2 AND a dog AND a penguin :2.2") == [
        ("a cat ", 1.2),
        (" a dog ", 1.0),
        (" a penguin ", 2.2),
    ]
    assert subprompts("a SAND and an ANDROID and") == [("a SAND and an ANDROID and", 1.0)]
    assert subprompts("the clock says 10:30") == [("the clock says 10:30", 1.0)]
    assert subprompts("a:-0.5 AND (b:1.2)") == [("a", -0.5), (" (b:1.2)", 1.0)]
    [fox, owl] = parse("a [red:blue:2] fox AND an owl :0.5", 4)
    assert [fox.at(step) for step in (1, 2, 3, 4)] == ["a red fox "] * 2 + ["a blue fox "] * 2
    assert owl.weight == 0.5 and owl.texts == [" an owl "]


@pytest.mark.parametrize("prompt", ["AND", "a AND", "AND a", "a AND AND b", "a AND :1.2", "a AND \n"])
def test_and_with_nothing(prompt):
    with pytest.raises(SettingError, match="nothing on one side"):
        subprompts(prompt)


def test_loras():
    assert loras("a fox <lora:pastel-mix_v2:0.8>, red<lyco:b>") == (
        "a fox , red",
        [Lora("pastel-mix_v2", 0.8, 0.8), Lora("b", 1.0, 1.0)],
    )
    assert loras("<lora:a:0.8:0.6><lora:b:te=0.5><lora:c:0.5:unet=-1>")[1] == [
        Lora("a", 0.8, 0.6),
        Lora("b", 0.5, 0.5),
        Lora("c", 0.5, -1.0),
    ]
    assert loras("a <fox> <lora <i:b>") == ("a <fox> <lora <i:b>", [])


@pytest.mark.parametrize(
    "tag", ["<lora:>", "<lora:a:b>", "<lora:a:1:2:3>", "<lora:a:nan>", "<lora:a:1e9>", "<lora:a:x=1>"]
)
def test_unreadable_loras(tag):
    with pytest.raises(SettingError, match=tag):
        loras(f"a fox {tag}")


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("(fox:101)", "101"),
        (f"(fox:{'9' * 400})", "inf"),
        (f"((fox:0):{'9' * 400})", "nan"),
        ("(" * 5000 + "fox" + ")" * 5000, r"e\+206"),
        ("(" * 60 + "fox", "304"),
        (f"a AND b :{'9' * 400}", "beyond"),
        ("a AND " * 9_000 + "b", "9,001"),
        ("a <hypernet:b:1>", "hypernetwork"),
        ("x" * 100_001, "100,001"),
        ("a \udcff fox", "position 2"),
        (None, "NoneType"),
    ],
)
def test_refused(prompt, word):
    with pytest.raises(SettingError, match=word) as error:
        text, _ = loras(prompt)
        [emphasis(text) for subprompt in parse(text, 10) for text in subprompt.texts]
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


HOSTILE = [
    "[" * 9_000 + "a" + "]" * 9_000,
    "[" * 9_000 + "a" + ":2]" * 5_000,
    "(" * 40 + "a)[" * 9_000,
    "[)" * 20_000,
    "[(" * 40 + "[" * 20_000,
    "[a|" * 9_000,
    "[a:" * 9_000 + "3]",
    ":" * 40_000,
    ":" + "1" * 40_000,
    "(:" + " " * 40_000,
    " " * 40_000 + "BREAK",
    "<lora:" * 9_000,
    "\\" * 40_001,
    "fox, " * 10_000,
    "BREAK " * 9_000,
]


@pytest.mark.parametrize("prompt", HOSTILE, ids=[prompt[:12] for prompt in HOSTILE])
def test_hostile_prompts_are_read(prompt):
    """In hundredths of a second: what is not linear would take many seconds, and what recurses would stop."""
    text, _ = loras(prompt)
    for subprompt in parse(text, 3):
        for piece in subprompt.texts:
            emphasis(piece)
