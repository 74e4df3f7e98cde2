"""The handlers of the page, called as Gradio calls them, with a real engine; the browser is in test_browser.py."""

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

import eyesel
from eyesel.search.build import build
from eyesel.search.identity import identity_of
from eyesel.search.index import Index
from eyesel.serve.options import Limits
from eyesel.web.page import page
from eyesel.web.pictures import mask_of, view
from eyesel.web.studio import bars, sides, whole
from eyesel.weights.hub import ASSETS
from serving import FOX, with_engine

EXAMPLES = ASSETS / "tiny" / "examples"
VISITOR = gr.Request(Request({"type": "http", "client": ("127.0.0.1", 1), "headers": []}))


class Page:
    """The page of an engine: its handlers by the tab that they stand in, what they return by the components' labels."""

    def __init__(self, engine):
        self.engine, self.blocks = engine, page(engine, engine.options)

    def handler(self, module, name):
        return next(
            each.fn
            for each in self.blocks.fns.values()
            if each.fn is not None and each.fn.__module__ == f"eyesel.web.{module}" and each.fn.__name__ == name
        )

    async def all(self, module, name, *values):
        """Everything that a handler yields."""
        return [each async for each in self.handler(module, name)(*values)]


def called(component):
    return getattr(component, "label", None) or getattr(component, "value", None) or type(component).__name__


def form(**said):
    usual = {"prompt": FOX, "negative": "", "model": "tiny", "seed": "7", "size": "", "n": 1, "steps": 8}
    return list({**usual, "guidance": 3.0, "solver": "", "schedule": "", **said}.values())


def test_paints_with_previews_and_keeps_the_settings():
    async def work(engine):
        looks = await Page(engine).all("generate", "run", [], None, VISITOR, *form(n=2, size="32x32", solver="euler"))
        lines = [value for look in looks for key, value in look.items() if getattr(key, "elem_id", "") == "progress"]
        previews = [value for look in looks for value in look.values() if isinstance(value, Image.Image)]
        [history] = [value for value in looks[-1].values() if isinstance(value, list)]
        return lines, previews, history

    lines, previews, history = with_engine(work)
    assert "Done in" in lines[-1]
    assert all(preview.size == (32, 32) for preview in previews)
    assert [each.settings["seed"] for each in history] == [7, 8]
    settings = eyesel.settings_from(history[1].file)
    again = eyesel.StableDiffusion.load(settings.pop("model")).generate(**settings)
    assert np.array_equal(again.image, eyesel.open_image(history[1].file))
    assert "Seed: 8" in history[1].text


def test_what_cannot_be_painted_is_said_in_a_sentence():
    async def work(engine):
        told = []
        for wrong in (
            {"prompt": " "},
            {"seed": "seven"},
            {"size": "33x32"},
            {"size": "big"},
            {"n": 11},
            {"steps": 151},
        ):
            with pytest.raises(gr.Error) as error:
                await Page(engine).all("generate", "run", [], None, VISITOR, *form(**wrong))
            told.append(error.value.message)
        return told

    told = with_engine(work)
    assert told[0] == "The prompt is empty: say what to paint."
    assert told[1] == "Seed is 'seven'; write a whole number, or leave it empty."
    assert "33" in told[2] and "multiple of 8" in told[2]
    assert told[3].startswith("Size is 'big'")
    assert "from 1 to 10" in told[4] and "150 at most" in told[5]


def test_a_job_that_is_cancelled_leaves_what_was_there():
    async def work(engine):
        tab = Page(engine)
        lines = []
        async for look in tab.handler("generate", "run")([], None, VISITOR, *form(steps=150, size="64")):
            lines += [value for key, value in look.items() if getattr(key, "elem_id", "") == "progress"]
            if len(lines) == 2:
                tab.handler("studio", "cancelled")(engine.jobs.running()[0].id)
        return lines, engine.jobs.list()[0].state

    lines, state = with_engine(work)
    assert state == "cancelled" and "Cancelled" in lines[-1]


def test_a_visitor_who_goes_away_takes_the_job_along():
    async def work(engine):
        looks = Page(engine).handler("generate", "run")([], None, VISITOR, *form(steps=150, size="64"))
        await anext(looks)
        [job] = engine.jobs._live.values()
        await looks.aclose()
        async for _ in job.updates():
            pass
        return job.state

    assert with_engine(work) == "cancelled"


def test_settings_are_read_from_a_picture(tmp_path, easel):
    easel.generate(FOX, seed=9, steps=7, solver="euler", size=(40, 32), guidance=2.0).save(tmp_path / "fox.png")

    async def work(engine):
        return await Page(engine).handler("generate", "read")(str(tmp_path / "fox.png"))

    assert with_engine(work) == [FOX, "", "tiny", "9", "40x32", 1, 7, 2.0, "euler", ""]


def test_repaints_what_is_painted_over_and_nothing_else(tmp_path, easel):
    before = easel.generate(FOX, seed=7, steps=8)
    before.save(tmp_path / "fox.png")
    brush = Image.new("RGBA", (512, 512))
    brush.paste((194, 47, 201, 158), (0, 0, 512, 256))  # the upper half of a view of 512x512

    async def work(engine):
        values = [{"layers": [brush]}, None, "a large owl on a blue background", "tiny", 1.0, 0, "", False, "3"]
        looks = await Page(engine).all("edit", "run", str(tmp_path / "fox.png"), *values, VISITOR)
        return next(value for value in looks[-1].values() if isinstance(value, str) and value.endswith(".png"))

    after = np.asarray(eyesel.open_image(with_engine(work)))
    assert np.array_equal(after[16:], np.asarray(before.image)[16:])
    assert (after[:16] != np.asarray(before.image)[:16]).mean() > 0.5


def test_nothing_painted_over_is_an_error(tmp_path, easel):
    easel.generate(FOX, seed=7, steps=2).save(tmp_path / "fox.png")

    async def work(engine):
        values = [{"layers": [Image.new("RGBA", (512, 512))]}, None, FOX, "tiny", 1.0, 0, "", False, ""]
        with pytest.raises(gr.Error, match="Nothing is marked"):
            await Page(engine).all("edit", "run", str(tmp_path / "fox.png"), *values, VISITOR)

    with_engine(work)


def test_pictures_are_as_large_as_the_server_takes_them(tmp_path):
    file = str(tmp_path / "large.png")
    Image.new("RGB", (100, 101)).save(file)

    async def work(engine):
        page, told = Page(engine), []
        for tab, name, values in (
            ("edit", "opened", [file]),
            ("see", "classified", [file, "tiny", VISITOR]),
            ("see", "looked", [file, "tiny", "rollout", 1, -1, ""]),
        ):
            with pytest.raises(gr.Error) as error:
                await page.handler(tab, name)(*values)
            told.append(error.value.message)
        return told

    told = with_engine(work, warm_up=False, limits=Limits(pixels=10_000))
    assert told == ["Image has 100x101 pixels; this server takes 10,000 at most."] * 3


def test_restyles_with_one_dial():
    content, style = str(EXAMPLES / "owl.png"), str(EXAMPLES / "rocket.png")

    async def work(engine):
        looks = await Page(engine).all("style", "run", content, style, 0.0, "style", "tiny", 2, "", "", VISITOR)
        return next(value for value in looks[-1].values() if isinstance(value, str) and value.endswith(".png"))

    assert np.array_equal(eyesel.open_image(with_engine(work)), eyesel.open_image(content))  # 0 is the content


def test_sees_labels_and_where_it_looked():
    async def work(engine):
        tab = Page(engine)
        labels = await tab.handler("see", "classified")(str(EXAMPLES / "fox.png"), "tiny", VISITOR)
        layers, heads, classes = await tab.handler("see", "known")("tiny")
        maps = [
            (await tab.handler("see", "looked")(str(EXAMPLES / "fox.png"), "tiny", *question))["value"]
            for question in (("rollout", 5, -1, ""), ("rollout", 5, 2, ""), ("gradient-rollout", 3, -1, "owl"))
        ]
        return labels, layers["maximum"], heads["maximum"], len(classes["choices"]), maps

    labels, layer, head, classes, maps = with_engine(work)
    assert labels.index("fox") < labels.index("%") and (layer, head, classes) == (5, 3, 65)
    assert not np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[1], maps[2])


def test_finds_what_is_like_a_picture(tmp_path, easel):
    pytest.importorskip("lancedb")
    for i, name in enumerate(("fox", "owl", "rocket", "turtle")):
        easel.generate(f"a large {name} on a blue background", seed=i, steps=8).save(tmp_path / f"{name}.png")
    eye = eyesel.ImageClassifier.load("tiny")
    build(Index.create(tmp_path / "db", identity_of(eye)), eye, tmp_path)

    async def work(engine):
        return await Page(engine).handler("see", "nearest")(str(EXAMPLES / "fox.png"), "tiny", VISITOR)

    tiles = with_engine(work, index=tmp_path / "db")
    assert len(tiles) == 4 and tiles[0][1].startswith("fox, 0.")
    assert np.array_equal(tiles[0][0], eyesel.open_image(tmp_path / "fox.png"))


def test_compares_two_models_at_the_same_work():
    async def work(engine):
        painter, classifier = "tiny · painter", "tiny · classifier"
        looks = await Page(engine).all("compare", "run", painter, painter, FOX, None, VISITOR)
        told = await Page(engine).all("compare", "run", painter, classifier, "", None, VISITOR)
        pictures = [
            value["value"] for look in looks for value in look.values() if isinstance(value, dict) and "value" in value
        ]
        return pictures, next(value for key, value in told[0].items() if key.elem_id == "report")

    pictures, report = with_engine(work)
    assert len(pictures) == 2 and np.array_equal(*pictures)
    assert report.startswith("They do different things") and "| 6,440,155 |" not in report.split("\n")[0]
    assert "unknown |" not in report


def test_a_page_of_classifiers_alone_has_no_easel(tmp_path):
    async def work(engine):
        return [tab.label for tab in page(engine, engine.options).blocks.values() if isinstance(tab, gr.Tab)]

    folder = str(ASSETS / "tiny" / "classifier")
    assert with_engine(work, models=(folder,)) == ["See", "Compare"]
    assert with_engine(work, limits=Limits(steps=10)) == ["Generate", "Edit", "Style", "See", "Compare"]


def test_views_and_masks():
    small, large = Image.new("RGB", (32, 24)), Image.new("RGB", (4000, 2000))
    assert view(small).size == (512, 384) and view(large).size == (1024, 512)
    layer = Image.new("RGBA", (512, 384))
    layer.paste((1, 2, 3, 40), (0, 0, 256, 384))
    mask = np.asarray(mask_of([layer], (32, 24)))
    assert mask[:, :16].min() == 255 and mask[:, 16:].max() == 0
    assert mask_of([Image.new("RGBA", (8, 8))], (8, 8)) is None and mask_of([], (8, 8)) is None


def test_what_is_typed():
    assert whole(" 7 ", "seed") == 7 and whole("", "seed") is None
    assert sides("512x768") == (512, 768) and sides(" 64 ") == (64, 64) and sides("") is None


def test_labels_cannot_write_html():
    assert "<script>" not in bars([eyesel.Prediction("<script>", 0.5)])
