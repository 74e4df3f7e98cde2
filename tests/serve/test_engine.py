"""The engine, with real models: what it answers, in which order, and what becomes of jobs that do not end well."""

import asyncio

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel.serve.errors import ApiError
from eyesel.serve.options import Limits
from serving import FOX, png, with_engine
from tiny_models import write_classifier

OWL = "a large owl on a blue background"


def pictures(count):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (20 + i, 30, 3), np.uint8)) for i in range(count)]


def refusal(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def difference(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max()


def test_a_batch_answers_as_one_by_one(eye):
    images = pictures(20)

    async def work(engine):
        answers = await asyncio.gather(
            *(engine.classify([png(image)], top_k=3, client=str(i % 4)) for i, image in enumerate(images)),
            engine.classify(images[:2], top_k=2, function_to_apply="none"),
        )
        vectors = await asyncio.gather(*(engine.embed([image], pool="mean", layer=[2, -1]) for image in images))
        pixels = eye.transform(images[:3])
        logits = await engine.infer(pixels)
        batches = engine.metrics.registry.get_sample_value("eyesel_batch_size_count")
        return answers, vectors, logits, batches

    answers, vectors, logits, batches = with_engine(work, max_batch=8)
    for found, image in zip(answers[:20], images, strict=True):
        expected = eye.classify(image, top_k=3)
        assert [p.label for p in found[0]] == [p.label for p in expected]
        np.testing.assert_allclose([p.score for p in found[0]], [p.score for p in expected], atol=1e-5)
    raw = eye.classify(images[:2], top_k=2, function_to_apply="none")
    np.testing.assert_allclose(
        [[p.score for p in each] for each in answers[20]], [[p.score for p in each] for each in raw], atol=1e-4
    )
    expected = eye.embed(images, pool="mean", layer=[2, -1])
    np.testing.assert_allclose([each[0] for each in vectors], expected, atol=1e-4)
    torch.testing.assert_close(logits, eye.logits(images[:3]), atol=1e-4, rtol=0)
    assert 3 <= batches < 30  # 45 pictures of two kinds, at most 8 together


def test_a_job_paints_what_the_painter_paints(easel):
    async def work(engine):
        job = engine.submit("generate", {"prompt": FOX, "seed": 7, "steps": 6}, n=2)
        states = [(event.state, event.step, event.steps) async for event in job.updates()]
        return job, states, await job.result(), engine.jobs.get(job.id).pictures

    job, states, made, kept = with_engine(work)
    expected = easel.generate(FOX, seed=7, steps=6, n=2)
    for pictures in (made, kept):
        assert [difference(a.image, b.image) for a, b in zip(pictures, expected, strict=True)] == [0, 0]
        assert [picture.seed for picture in pictures] == [7, 8] == job.seeds
    assert states[0][0] == "queued" and states[-1] == ("done", 6, 6)
    assert [step for _, step, _ in states] == sorted(step for _, step, _ in states)


def test_compatible_jobs_are_painted_together(easel):
    async def work(engine):
        first = engine.submit("generate", {"prompt": FOX, "steps": 8, "seed": 1, "size": (16, 16)})  # keeps it busy
        jobs = [engine.submit("generate", {"prompt": OWL, "seed": seed, "steps": 6}) for seed in (3, 4)]
        other = engine.submit("generate", {"prompt": OWL, "seed": 5, "steps": 6, "guidance": 2.0})
        results = [await job.result() for job in jobs]
        await asyncio.gather(first.result(), other.result())
        return jobs, other, results

    jobs, other, results = with_engine(work)
    assert jobs[0].started == jobs[1].started != other.started
    for seed, (picture,) in zip((3, 4), results, strict=True):
        alone = easel.generate(OWL, seed=seed, steps=6)
        assert difference(picture.image, alone.image) <= 1
        assert picture.settings == alone.settings and picture.seed == seed


def test_more_pictures_than_fit_into_a_batch_are_painted_in_parts(easel):
    settings = {"prompt": FOX, "seed": 7, "steps": 3, "variation_seed": 20, "variation_strength": 0.3}

    async def work(engine):
        plain = engine.submit("generate", {"prompt": FOX, "seed": 7, "steps": 3}, n=5)
        varied = engine.submit("generate", settings, n=5)
        return await plain.result(), await varied.result(), plain.steps

    plain, varied, steps = with_engine(work, limits=Limits(batch=2))
    assert steps == 9 and [picture.seed for picture in plain] == [7, 8, 9, 10, 11]
    for made, expected in (
        (plain, easel.generate(FOX, seed=7, steps=3, n=5)),
        (varied, easel.generate(n=5, **settings)),
    ):
        assert max(difference(a.image, b.image) for a, b in zip(made, expected, strict=True)) <= 1
        assert [a.settings for a in made] == [b.settings for b in expected]


def test_pictures_to_start_from(easel, fox):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))

    async def work(engine):
        over = engine.submit("generate", {"prompt": OWL, "seed": 1, "steps": 4, "strength": 0.5}, {"image": fox})
        painted = engine.submit("inpaint", {"prompt": OWL, "seed": 1, "steps": 4}, {"image": fox, "mask": mask})
        styled = engine.submit("stylize", {"steps": 2}, {"image": fox, "style": fox.rotate(90)})
        return [(await job.result())[0].image for job in (over, painted, styled)]

    over, painted, styled = with_engine(work)
    assert difference(over, easel.generate(OWL, image=fox, seed=1, steps=4, strength=0.5).image) == 0
    assert difference(painted, easel.inpaint(fox, mask, OWL, seed=1, steps=4).image) == 0
    assert difference(painted.crop((0, 26, 32, 32)), fox.crop((0, 26, 32, 32))) == 0
    assert difference(styled, easel.stylize(fox, fox.rotate(90), steps=2).image) == 0


def test_clients_and_priorities_take_turns():
    ended = []

    async def work(engine):
        async def follow(name, job):
            await job.result()
            ended.append(name)

        def order(name, **who):
            job = engine.submit("generate", {"prompt": FOX, "steps": 2, "seed": 1}, **who)
            return follow(name, job)

        many = [order(f"a{i}", client="a") for i in range(4)]
        await asyncio.gather(*many, order("b", client="b"), order("urgent", client="c", priority=3))

    with_engine(work, limits=Limits(batch=1))
    assert ended == ["a0", "urgent", "b", "a1", "a2", "a3"] or ended == ["urgent", "a0", "b", "a1", "a2", "a3"]


def test_a_classification_does_not_wait_for_a_painting(fox):
    async def work(engine):
        job = engine.submit("generate", {"prompt": FOX, "steps": 100, "size": (64, 64)})
        async for event in job.updates():
            if event.step:
                break
        before = job.step
        await engine.classify([fox])
        after = job.step
        job.cancel()
        return before, after, job.state

    before, after, state = with_engine(work)
    assert state == "running" and after - before < 20


def test_cancelled_jobs_stop_and_make_room():
    async def work(engine):
        running = engine.submit("generate", {"prompt": FOX, "steps": 100})
        waiting = engine.submit("generate", {"prompt": FOX, "steps": 3, "guidance": 2.0})
        async for event in running.updates():
            if event.step:
                break
        assert waiting.position == 1
        waiting.cancel()
        running.cancel()
        refusals = []
        for job in (waiting, running):
            with pytest.raises(ApiError) as caught:
                await job.result()
            refusals.append(caught.value.code)
        assert not engine.jobs.cancel(running)  # it has ended
        after = await engine.submit("generate", {"prompt": FOX, "steps": 1}).result()
        return [waiting.state, running.state], refusals, running.step, len(after), engine.jobs.get(running.id).state

    states, refusals, step, after, kept = with_engine(work)
    assert states == ["cancelled", "cancelled"] and refusals == ["cancelled", "cancelled"]
    assert step < 100 and after == 1 and kept == "cancelled"


def test_time_is_limited():
    async def work(engine):
        long = engine.submit("generate", {"prompt": FOX, "steps": 100})
        late = engine.submit("generate", {"prompt": FOX, "steps": 1, "guidance": 1.5})
        caught = []
        for job in (long, late):
            with pytest.raises(ApiError) as error:
                await job.result()
            caught.append(error.value)
        return caught

    long, late = with_engine(work, limits=Limits(timeout=0.2, wait=0.1))
    assert (long.status, long.code, long.param) == (422, "timeout", "steps")
    assert (late.status, late.code) == (503, "queue_timeout")


def test_a_full_queue_is_said_at_once():
    async def work(engine):
        def flood():
            for i in range(12):
                engine.submit("generate", {"prompt": FOX, "steps": 100}, client=str(i))

        return refusal(flood), len(engine.jobs)

    error, waiting = with_engine(work, limits=Limits(queue=4, share=0.5, batch=1))
    assert 3 <= waiting <= 4  # one may have begun
    assert error.status == 429 and error.code == "queue_full" and error.retry_after >= 1


SMALL = Image.new("RGB", (32, 32))
BOTH = {"image": SMALL, "style": SMALL}
IMPOSSIBLE = [  # settings, the rest of the order, status, field
    ({}, {}, 400, "prompt"),
    ({"prompt": " "}, {}, 400, "prompt"),
    ({"prompt": 7}, {}, 400, "prompt"),
    ({"prompt": "x" * 10_001}, {}, 400, "prompt"),
    ({"prompt": "x", "negative": ["y"]}, {}, 400, "negative"),
    ({"prompt": "x", "steps": 151}, {}, 400, "steps"),
    ({"prompt": "x", "steps": 0}, {}, 400, "steps"),
    ({"prompt": "x", "steps": "ten"}, {}, 400, "steps"),
    ({"prompt": "x", "cfg_scale": 7}, {}, 400, "cfg_scale"),
    ({"prompt": "x", "size": [33, 32]}, {}, 400, "size"),
    ({"prompt": "x", "size": [4096, 2048]}, {}, 400, "size"),
    ({"prompt": "x", "size": [1024, 1024], "hires": 3.0}, {}, 400, "size"),
    ({"prompt": "x", "solver": "best"}, {}, 400, "solver"),
    ({"prompt": "x", "eta": 2}, {}, 400, "eta"),
    ({"prompt": "x", "strength": 0.5}, {}, 400, "strength"),
    ({"prompt": "x", "seed": -1}, {}, 400, "seed"),
    ({"prompt": "x", "seed": 0.5}, {}, 400, "seed"),
    ({"prompt": "x"}, {"n": 11}, 400, "n"),
    ({"prompt": "x"}, {"n": True}, 400, "n"),
    ({"prompt": "x"}, {"model": "dall-e-9"}, 404, "model"),
    ({"prompt": "x"}, {"task": "inpaint"}, 422, "image"),
    ({"prompt": "x"}, {"task": "inpaint", "images": {"image": SMALL}}, 422, "mask"),
    ({"prompt": "x"}, {"images": {"style": SMALL}}, 422, "style"),
    ({"prompt": "x"}, {"images": {"image": Image.new("RGB", (4096, 2048))}}, 400, "image"),
    ({"prompt": "x", "hires": 8.0, "size": [512, 512]}, {}, 400, "size"),
    ({"prompt": "x", "expand": [0, 0, 8000, 8000]}, {"task": "inpaint", "images": {"image": SMALL}}, 400, "expand"),
    (
        {"prompt": "x", "mask_blur": 256, "only_masked": True, "size": [64, 64]},
        {"task": "inpaint", "images": dict.fromkeys(("image", "mask"), Image.new("L", (4000, 3000), 255))},
        400,
        "mask_blur",
    ),
    ({"longest": 8192}, {"task": "stylize", "images": BOTH}, 400, "longest"),
    ({"steps": 50, "looks": 50}, {"task": "stylize", "images": BOTH}, 400, "looks"),
    ({}, {"task": "stylize"}, 422, "image"),
    ({"seed": 1}, {"task": "stylize", "images": BOTH}, 400, "seed"),
    (
        {"weights": "much"},
        {"task": "stylize", "images": BOTH},
        400,
        "weights",
    ),
]


def test_what_cannot_be_is_refused_before_it_is_queued():
    async def work(engine):
        for settings, more, status, param in IMPOSSIBLE:
            order = {"task": "generate", "settings": settings, **more}
            error = refusal(lambda order=order: engine.submit(**order))
            assert (error.status, error.param) == (status, param), error.message
            assert error.message.endswith((".", "?"))
        return engine.jobs.list()

    assert with_engine(work) == []


def test_what_shows_only_in_the_pictures_fails_with_its_field(fox):
    async def work(engine):
        job = engine.submit("inpaint", {"prompt": OWL, "steps": 1}, {"image": fox, "mask": Image.new("L", (32, 32))})
        with pytest.raises(ApiError) as caught:
            await job.result()
        return caught.value, engine.jobs.get(job.id)

    error, kept = with_engine(work)
    assert (
        (error.status, error.param) == (400, "mask") and kept.state == "failed" and kept.error.message == error.message
    )


def test_previews_are_made_as_asked():
    async def work(engine):
        job = engine.submit("generate", {"prompt": FOX, "steps": 9, "seed": 1}, previews=2)
        seen = [image async for event in job.updates() for image in event.previews]
        silent = engine.submit("generate", {"prompt": FOX, "steps": 9, "seed": 1})
        none = [image async for event in silent.updates() for image in event.previews]
        return seen, none

    seen, none = with_engine(work)
    assert [image.size for image in seen] == [(32, 32)] * 2 and none == []
    assert difference(*seen) > 0


def test_a_restart_loses_nothing(tmp_path):
    async def first(engine):
        done = engine.submit("generate", {"prompt": FOX, "seed": 7, "steps": 2}, n=2, client="me")
        made = await done.result()
        failed = engine.submit(
            "stylize", {"steps": 2, "match": 0.5}, dict.fromkeys(("image", "style"), Image.new("L", (9, 9)))
        )
        with pytest.raises(ApiError):
            failed.cancel()
            await failed.result()
        running = engine.submit("generate", {"prompt": FOX, "steps": 150})
        waiting = engine.submit("generate", {"prompt": FOX, "steps": 3})
        while not running.step:
            await asyncio.sleep(0.01)
        return done, made, running, waiting

    done, made, running, waiting = with_engine(first, data=tmp_path)
    assert running.state == waiting.state == "interrupted"

    async def second(engine):
        kept = engine.jobs.get(done.id)
        states = [engine.jobs.get(job.id).state for job in (done, running, waiting)]
        with pytest.raises(ApiError) as caught:
            await engine.jobs.get(running.id).result()
        listed = [job.id for job in engine.jobs.list("me")]
        return kept, await kept.result(), states, caught.value, listed

    kept, pictures, states, error, listed = with_engine(second, data=tmp_path)
    assert states == ["done", "interrupted", "interrupted"] and listed == [done.id]
    assert error.status == 503 and error.retry_after
    assert [difference(a.image, b.image) for a, b in zip(pictures, made, strict=True)] == [0, 0]
    assert (kept.seeds, kept.settings, kept.client) == ([7, 8], {"prompt": FOX, "steps": 2}, "me")


def test_only_so_many_jobs_are_kept(tmp_path):
    async def work(engine):
        jobs = []
        for seed in range(4):
            jobs.append(engine.submit("generate", {"prompt": FOX, "seed": seed, "steps": 1}))
            await jobs[-1].result()
        return jobs

    jobs = with_engine(work, data=tmp_path, limits=Limits(kept=2))
    files = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert files == sorted(f"{job.id}-0.png" for job in jobs[2:])


def test_the_least_recently_used_model_makes_room(tmp_path):
    folders = [write_classifier(tmp_path / name) for name in ("one", "two", "three")]
    size = sum(file.stat().st_size for file in folders[0].rglob("*.safetensors"))

    async def work(engine):
        loaded = []
        for name in ("one", "two", "one", "three", "two"):
            await engine.classify([Image.new("RGB", (32, 32))], model=name)
            loaded.append(sorted(id for _, id in engine.models.loaded()))
        return loaded, [card.id for card in engine.models.cards()]

    limit = int(2.5 * size)
    loaded, ids = with_engine(work, models=tuple(map(str, folders)), limits=Limits(memory=limit), warm_up=False)
    assert ids == ["one", "two", "three"]
    assert loaded == [["one"], ["one", "two"], ["one", "two"], ["one", "three"], ["three", "two"]]


def test_models_in_folders_of_the_same_name(tmp_path):
    folders = [write_classifier(tmp_path / name / "final") for name in ("one", "two", "two/old/one")]
    other = write_classifier(tmp_path / "tiny")
    models = tuple(map(str, (*folders, folders[0], other, "tiny")))

    async def work(engine):
        ids = [card.id for card in engine.models.cards() if card.kind == "classifier"]
        assert ids == [f"{tmp_path.name}/one/final", "two/final", "old/one/final", f"{tmp_path.name}/tiny", "tiny"]
        for id, folder in zip(ids, folders, strict=False):
            card = engine.models.card(id, "classifier")
            assert card.path == folder and engine.models.resolve(str(folder), "classifier") == id
        answer = await engine.classify([Image.new("RGB", (32, 32))], model="two/final")
        return answer, refusal(lambda: engine.models.resolve("final", "classifier"))

    answer, error = with_engine(work, models=models, warm_up=False)
    assert len(answer) == 1 and error.status == 404


def test_names_of_models():
    async def work(engine):
        resolve = engine.models.resolve
        assert resolve(None, "painter") == resolve("tiny", "painter") == resolve("gpt-image-1", "painter") == "tiny"
        assert resolve(None, "classifier") == "tiny"
        return [refusal(lambda name=name: resolve(name, "classifier")) for name in ("tinny", "gpt-image-1")]

    near, alias = with_engine(work, warm_up=False)
    assert near.status == alias.status == 404 and near.code == "model_not_found" and "tiny" in near.message


def test_pictures_of_waiting_jobs_are_bounded():
    async def work(engine):
        images = {"image": Image.new("RGB", (600, 600))}
        order = {"prompt": OWL, "steps": 2, "strength": 0.5, "size": (32, 32)}
        first = engine.submit("generate", order, images)
        error = refusal(lambda: engine.submit("generate", order, images))
        await first.result()
        await engine.submit("generate", order, images).result()
        return error

    error = with_engine(work, limits=Limits(queued_pixels=700_000))
    assert error.status == 429 and error.retry_after
