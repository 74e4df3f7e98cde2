"""Figures of a comparison against independent formulas, and a verdict that says no more than they do."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from eyesel.compare.comparison import Comparison, Model
from eyesel.compare.facts import Facts, both
from eyesel.compare.measure import CAPABILITIES, Capability, Measured
from eyesel.compare.quality import Quality, calibration_error, chance, number_of
from eyesel.compare.report import as_json, markdown, rows
from eyesel.errors import CheckpointError, SettingError
from eyesel.weights.card import Card, read_card
from tiny_models import write_classifier, write_painter


def model(name="a", kind="classifier", parameters=10, right=None, seen=None, can=None, **figures):
    facts = Facts(name, kind, Path(name), "a model", parameters, 4 * parameters, "float32", None, ())
    measured = Measured(figures, capabilities={each: Capability(can) for each in CAPABILITIES[kind]})
    quality = None if right is None else Quality(np.array(right, bool), np.full(len(right), 0.9))
    return Model(facts, measured, quality, None if seen is None else np.array(seen, bool))


def test_calibration_error():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(500), [0.0, 1.0]])
    right = rng.random(502) < confidence**2
    total = 0.0
    for b in range(15):
        inside = [i for i, c in enumerate(confidence) if b / 15 < c <= (b + 1) / 15 or (b == 0 and c == 0)]
        if inside:
            total += abs(sum(right[i] for i in inside) - sum(confidence[i] for i in inside)) / 502
    assert abs(calibration_error(confidence, right) - total) < 1e-12
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


@pytest.mark.parametrize(("wins", "losses"), [(9, 1), (1, 9), (3, 3), (0, 0), (12, 5)])
def test_chance_is_the_binomial_test(wins, losses):
    first = np.array([True] * wins + [False] * losses + [True, False])
    second = np.array([False] * wins + [True] * losses + [True, False])
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert abs(chance(first, second) - expected) < 1e-12


def test_folders_mean_labels():
    labels = ["red fox, Vulpes vulpes", "crane", "crane", "tabby_cat", "n01"]
    assert [number_of(name, labels) for name in ("vulpes Vulpes", "Red_Fox", "tabby cat", "N01")] == [0, 0, 3, 4]
    assert [number_of(name, labels) for name in ("crane", "owl", "")] == [None, None, None]


def test_verdict_follows_the_figures():
    good, bad = [1] * 95 + [0] * 5, [1] * 60 + [0] * 40
    labels = tuple(["fox"] * 100)
    steady = {"peak_bytes": [100.0], "images_per_second_8": [10.0, 10.0, 10.0]}
    verdict = Comparison(
        model("a", right=bad, **steady), model("b", right=good, parameters=5, **steady), labels
    ).verdict()
    assert verdict.startswith(
        "b is right more often (95.0 % against 60.0 % of 100 pictures, a difference that chance makes"
    )
    assert "b is 2.0 times smaller" in verdict and "even in memory and speed" in verdict
    assert verdict.count(". ") == 0  # one sentence
    near = Comparison(model("a", right=good), model("b", right=[1] * 96 + [0] * 4), labels)
    assert near.verdict().startswith("Neither is shown to be better (95.0 % against 96.0 %, a difference that chance")
    assert "unknown: memory and speed" in near.verdict()
    assert Comparison(model("a"), model("b")).verdict().startswith("Which does its work better is unknown")
    mixed = Comparison(model("a"), model("b", "painter", seen=[1, 0])).verdict()
    assert mixed.startswith("They do different things") and "50.0 % of the prompts" in mixed


def test_a_difference_in_speed_has_to_last():
    def rank(first, second):
        both = (model("a", images_per_second_8=first), model("b", images_per_second_8=second))
        comparison = Comparison(*both)
        (metric,) = (metric for metric in comparison.metrics if metric.name == "images_per_second_8")
        return comparison.ranks(metric)

    assert rank([10, 11, 12], [20, 21, 22]) == (2, 1)
    assert rank([10, 30, 12], [20, 21, 22]) == (1, 1)  # once it was the other way
    assert rank([10, 10, 10], [10.5, 10.5, 10.5]) == (1, 1)
    assert rank([], [20]) is None


def test_what_is_unknown_is_said_to_be():
    comparison = Comparison(model("a"), model("a", "painter", can=False))
    table = {row[0]: row[1:] for row in rows(comparison)}
    assert table["licence"] == ("unknown", "unknown") and table["accuracy"] == ("unknown", "-")
    assert table["classify"] == ("unknown", "-") and table["inpainting"] == ("-", "no")
    text = markdown(comparison)
    assert "|  | a (classifier) | a (painter) |" in text and text.count("**Verdict.**") == 1
    assert as_json(comparison)["models"][0]["accuracy"] is None


def test_cards(tmp_path):
    assert read_card(tmp_path) == Card()
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: mine\ntags: [a, b]\n---\n# A model\n")
    assert read_card(tmp_path) == Card("mine", ("a", "b"))
    card.write_text("no header")
    assert read_card(tmp_path) == Card()
    card.write_text("---\nlicense: [a\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read"):
        read_card(tmp_path)


def test_kinds(tmp_path):
    classifier, painter = str(write_classifier(tmp_path / "eye")), str(write_painter(tmp_path / "easel", "sd1"))
    assert [fact.kind for fact in both(("tiny", painter))] == ["painter", "painter"]
    assert [fact.kind for fact in both((classifier, "tiny"))] == ["classifier", "classifier"]
    assert [fact.kind for fact in both(("tiny", painter), "classifier,painter")] == ["classifier", "painter"]
    assert [fact.kind for fact in both(("tiny", "tiny"))] == ["classifier", "classifier"]
    first, second = both(("tiny", "tiny"), "classifier,painter")
    assert first.licence == second.licence == "apache-2.0" and first.parameters == 1_212_864
    with pytest.raises(SettingError, match="is a painter, not a classifier"):
        both(("tiny", painter), "classifier")
    with pytest.raises(SettingError, match="kind is 'eye'"):
        both(("tiny", painter), "eye")
    with pytest.raises(CheckpointError, match="neither a classifier nor a painter"):
        both(("tiny", str(Path(painter) / "text_encoder")))
