"""Long, weighted and changing prompts, against the documented formula on transformers' encoders, and diffusers."""

import diffusers
import pytest
import torch

from eyesel import StableDiffusion
from eyesel.conditioning import weighted
from eyesel.errors import SettingError
from tiny_models import write_painter

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return StableDiffusion.load(folder, precision="float32"), theirs


def encoders(pipeline):
    pairs = [(pipeline.text_encoder, pipeline.tokenizer)]
    if hasattr(pipeline, "text_encoder_2"):
        pairs.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
    return pairs


@torch.no_grad()
def reference(pipeline, chunks, clip_skip=None, mode="original"):
    """The documented behaviour, chunk by chunk: each is a list of (text, weight), given by hand."""
    xl = hasattr(pipeline, "text_encoder_2")
    contexts = []
    for encoder, tokenizer in encoders(pipeline):
        rows = []
        for chunk in chunks:
            ids, weights = [tokenizer.bos_token_id], [1.0]
            for text, weight in chunk:
                tokens = tokenizer(text, add_special_tokens=False).input_ids
                ids, weights = ids + tokens, weights + [weight] * len(tokens)
            assert len(ids) <= 76
            ids += [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (76 - len(ids))
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
            if xl:
                z = output.hidden_states[-(clip_skip or 2)]
            elif clip_skip in (None, 1):
                z = output.last_hidden_state
            else:
                z = getattr(encoder, "text_model", encoder).final_layer_norm(output.hidden_states[-clip_skip])
            if mode in ("original", "no norm"):
                scaled = z * torch.tensor(weights + [1.0] * (77 - len(weights)))[None, :, None]
                z = scaled * z.mean() / scaled.mean() if mode == "original" else scaled
            rows.append(z)
            if len(rows) == 1:
                pooled = output.text_embeds if xl and hasattr(output, "text_embeds") else None
        contexts.append(torch.cat(rows, dim=1))
    return torch.cat(contexts, dim=-1), pooled


def ours_of(painter, text, **settings):
    encoded = painter.prompt_encoder.encode([text], **settings)[text]
    return encoded.context.flatten(0, 1).unsqueeze(0), encoded.pooled.unsqueeze(0)


UNIT = [("a", 1.0), ("large fox", 1.3), ("on a", 1.0), ("blue", 1 / 1.1), ("background", 1.0)]  # 7 tokens
CASES = {
    "plain": ("a large fox on a blue background", [[("a large fox on a blue background", 1.0)]]),
    "empty": ("", [[]]),
    "weighted": ("a (large fox:1.3) on a [blue] background", [UNIT]),
    "below zero": ("a (fox:-0.5)", [[("a", 1.0), ("fox", -0.5)]]),
    "long": (
        "a (large fox:1.3) on a [blue] background " * 22,
        [UNIT * 10 + UNIT[:3], [*UNIT[3:], *UNIT * 10, *UNIT[:2]], UNIT[2:]],
    ),
    "comma": (
        "a large fox " * 20 + "a" + ", red owl " * 6,
        [[("a large fox " * 20 + "a" + ", red owl " * 4 + ",", 1.0)], [("red owl , red owl", 1.0)]],
    ),
    "break": ("(a fox BREAK red) owl", [[("a fox", 1.1)], [("red", 1.1), ("owl", 1.0)]]),
    "escaped": (r"a \(large fox:1.3\)", [[("a (large fox:1.3)", 1.0)]]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["original", "no norm"])
def test_embeddings(painter, case, mode):
    ours, theirs = painter
    text, chunks = CASES[case]
    expected, pooled = reference(theirs, chunks, mode=mode)
    context, ours_pooled = ours_of(ours, text, emphasis=mode)
    assert context.shape == expected.shape
    assert (context - expected).abs().max() <= TOLERANCE * expected.abs().max()
    if pooled is not None:
        assert (ours_pooled - pooled).abs().max() <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip(painter, clip_skip):
    ours, theirs = painter
    expected, pooled = reference(theirs, [UNIT], clip_skip)
    context, ours_pooled = ours_of(ours, CASES["weighted"][0], clip_skip=clip_skip)
    assert (context - expected).abs().max() <= TOLERANCE * expected.abs().max()
    if pooled is not None:
        assert (ours_pooled - pooled).abs().max() <= TOLERANCE


def test_emphasis_ignored_and_literal(painter):
    ours, theirs = painter
    text = "a (large fox:1.3) on a [blue] background"
    for mode, chunk in {"ignore": "a large fox on a blue background", "none": text}.items():
        expected, _ = reference(theirs, [[(chunk, 1.0)]])
        assert (ours_of(ours, text, emphasis=mode)[0] - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(ours_of(ours, text, emphasis="No norm")[0], ours_of(ours, text, emphasis="no-norm")[0])


def test_without_weights_the_encoder_has_the_last_word(painter):
    """Bit for bit, in every mode, also next to a weighted prompt."""
    ours, _ = painter
    plain = "a large fox on a blue background"
    encoder, tokenizer = ours.text_encoders[0], ours.tokenizers[0]
    ids = [tokenizer.bos_id, *tokenizer.ids(plain), tokenizer.eos_id]
    ids = torch.tensor([ids + [tokenizer.pad_id] * (77 - len(ids))])
    with torch.no_grad():
        if ours.prompt_encoder.xl:
            expected = encoder(ids, clip_skip=2).hidden
        else:
            expected = encoder.final_layer_norm(encoder(ids).hidden)
    for mode in ("original", "no norm", "ignore", "none"):
        assert torch.equal(ours_of(ours, plain, emphasis=mode)[0][..., : expected.shape[-1]], expected)
    both = ours.prompt_encoder.encode([plain, "(a:1.5) fox"])[plain].context
    assert torch.allclose(both[..., : expected.shape[-1]], expected, atol=1e-5)


def our_latents(painter, prompts, **settings):
    for painting in painter.steps(prompts, seed=7, solver="euler", **settings):
        last = painting
    return last.latents


def their_latents(pipeline, steps, guidance, **inputs):
    return pipeline(
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(7)],
        output_type="latent",
        **inputs,
    ).images


def embeds(pipeline, chunks, negative_chunks):
    (positive, pooled), (negative, negative_pooled) = reference(pipeline, chunks), reference(pipeline, negative_chunks)
    inputs = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    if pooled is not None:
        inputs |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    return inputs


def close(ours, expected):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item())


def test_a_long_prompt_and_a_short_negative_one(painter):
    ours, theirs = painter
    text, chunks = CASES["long"]
    expected = their_latents(theirs, 3, 5.0, **embeds(theirs, chunks, [[("red", 1.0)], [], []]))
    close(our_latents(ours, text, negative="red", steps=3, guidance=5.0), expected)
    short = their_latents(theirs, 3, 5.0, **embeds(theirs, [[("red", 1.0)], [], []], chunks))
    close(our_latents(ours, "red", negative=text, steps=3, guidance=5.0), short)


def test_editing_changes_the_prompt_after_a_step(painter):
    ours, theirs = painter
    fox, owl = embeds(theirs, [[("a fox", 1.0)]], [[]]), embeds(theirs, [[("a", 1.0), ("owl", 1.2)]], [[]])
    names = [name for name in ("prompt_embeds", "add_text_embeds") if name == "prompt_embeds" or len(fox) == 4]

    def change(pipeline, step, timestep, tensors):
        if step == 1:  # two steps are done
            tensors["prompt_embeds"] = torch.cat([owl["negative_prompt_embeds"], owl["prompt_embeds"]])
            if "add_text_embeds" in tensors:
                pooled = [owl["negative_pooled_prompt_embeds"], owl["pooled_prompt_embeds"]]
                tensors["add_text_embeds"] = torch.cat(pooled)
        return tensors

    expected = their_latents(
        theirs, 5, 4.0, **fox, callback_on_step_end=change, callback_on_step_end_tensor_inputs=names
    )
    for prompt in ("a [fox:(owl:1.2):0.4]", "a [fox:(owl:1.2):2]", "a [fox::2][(owl:1.2):2]"):
        close(our_latents(ours, prompt, negative="", steps=5, guidance=4.0), expected)
    assert (our_latents(ours, "a fox", negative="", steps=5, guidance=4.0) - expected).abs().max() > 1e-2


def test_alternation(painter):
    ours, _ = painter
    alternating = our_latents(ours, "a [fox|owl]", steps=3)
    close(our_latents(ours, "a [[fox:owl:1]:fox:2]", steps=3), alternating)
    assert (our_latents(ours, "a fox", steps=3) - alternating).abs().max() > 1e-3
    assert (our_latents(ours, "a fox", negative="[red|blue]", steps=3) - alternating).abs().max() > 1e-3
    for painting in ours.steps("a [fox|owl]", steps=3, solver="heun", seed=7):  # asks ahead of its steps
        assert painting.latents.isfinite().all()


def test_composition(painter):
    ours, _ = painter
    fox = our_latents(ours, "a fox", steps=2)
    close(our_latents(ours, "a fox :0.5 AND a fox :0.5", steps=2), fox)
    close(our_latents(ours, "a fox AND a owl :0", steps=2), fox)
    close(our_latents(ours, "a fox :2 AND a owl :0", steps=2, guidance=3.75), fox)
    both = our_latents(ours, "a fox AND a [owl|fox] :0.7", steps=2)
    batch = our_latents(ours, ["a fox AND a [owl|fox] :0.7", "a fox"], steps=2)
    close(batch[:1], both)
    assert (both - fox).abs().max() > 1e-3


def test_the_same_picture_whatever_its_batch_holds(painter):
    ours, _ = painter
    long = CASES["long"][0]
    batch = our_latents(ours, ["a fox", long], steps=2)
    close(batch[:1], our_latents(ours, "a fox", steps=2))
    alone = our_latents(ours, [long, long], steps=2)
    close(batch[1:], alone[1:])


def test_ten_thousand_words(painter):
    ours, _ = painter
    assert our_latents(ours, "fox " * 10_000, steps=1).isfinite().all()
    assert len(ours.prompt_encoder.encode(["fox " * 10_000])["fox " * 10_000].context) == 134


def test_weights_that_overflow_are_refused():
    hidden, weights = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0)), torch.full((1, 77), 100.0)
    assert weighted(hidden, weights, restore_mean=False).isfinite().all()
    with pytest.raises(SettingError, match="too extreme"):
        weighted((1000 * hidden).half(), weights, restore_mean=False)
    with pytest.raises(SettingError, match="too extreme"):
        weighted(hidden, 0 * weights, restore_mean=True)


def test_learned_words(painter, tmp_path):
    folder = write_painter(tmp_path, "sdxl" if painter[0].prompt_encoder.xl else "sd1")
    ours = StableDiffusion.load(folder, precision="float32")

    def rows(word):
        return [
            encoder.token_embedding.weight[tokenizer.ids(word)].detach()
            for encoder, tokenizer in zip(ours.text_encoders, ours.tokenizers, strict=True)
        ]

    ours.prompt_encoder.learn("My-Style", rows("large fox"))
    ours.prompt_encoder.learn("<o>", [row[0] for row in rows("owl")])
    plain, _ = ours_of(ours, "a (large fox:1.2), owl on blue")
    learned, _ = ours_of(ours, "a (my-style:1.2), <o> on blue")
    assert torch.allclose(learned, plain, atol=1e-5)
    with pytest.raises(SettingError, match=r"'x' have the shapes \(1, 7\)"):
        ours.prompt_encoder.learn("x", [torch.zeros(1, 7)])
    with pytest.raises(SettingError, match="1 to 75"):
        ours.prompt_encoder.learn("x", [row.expand(76, -1) for row in rows("fox")])
    with pytest.raises(SettingError, match="name"):
        ours.prompt_encoder.learn(" ", rows("fox"))


def test_settings_that_cannot_be(painter):
    ours, _ = painter
    for settings, words in (
        ({"clip_skip": 0}, "clip_skip is 0"),
        ({"clip_skip": 4}, "to 3"),
        ({"clip_skip": 1.5}, "1.5"),
        ({"emphasis": "strong"}, "'strong'.*no norm"),
    ):
        with pytest.raises(SettingError, match=words):
            ours.steps("a fox", **settings)
    for prompt in ("a AND", "(fox:1000)", "a fox <lora:x:1>", ["a fox", None]):
        with pytest.raises(SettingError):
            ours.steps(prompt)
