"""Names to files, with a cache laid out as huggingface_hub lays it out, and without any network."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from eyesel.errors import CheckpointError
from eyesel.weights import hub
from eyesel.weights.hub import list_models, resolve, wanted

COMMIT, OTHER = "a" * 40, "b" * 40
VIT = {
    "config.json": json.dumps({"model_type": "vit"}),
    "model.safetensors": "w" * 100,
    "preprocessor_config.json": "{}",
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": [None, None],
}
PAINTER = {
    "model_index.json": json.dumps(INDEX),
    "unet/diffusion_pytorch_model.fp16.safetensors": "u",
    "vae/diffusion_pytorch_model.safetensors": "v",
    "text_encoder/model.safetensors": "t",
}


def cached(cache: Path, repo: str, files: dict[str, str], commit: str = COMMIT, revision: str | None = "main") -> Path:
    """A repository in the cache: blobs, a snapshot of links to them, and a reference."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for number, (name, content) in enumerate(files.items()):
        blob, link = folder / "blobs" / f"{commit[:8]}{number}", folder / "snapshots" / commit / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        link.symlink_to(blob)
    if revision:
        reference = folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return folder / "snapshots" / commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, an empty working folder, and a network that fails the test when it is touched."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: pytest.fail("network"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("network"))
    for name in ("work", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def assets(tmp_path, monkeypatch):
    for kind, files in (("classifier", VIT), ("painter", PAINTER)):
        for name, content in files.items():
            path = tmp_path / "assets" / "tiny" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    monkeypatch.setattr(hub, "ASSETS", tmp_path / "assets")
    return tmp_path / "assets"


def refused(*words: str, name: str, **options) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve(name, **options)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert message.endswith((".", "?"))
    assert "\n" not in message


def test_bundled(cache, assets):
    assert resolve("tiny", kind="classifier") == assets / "tiny" / "classifier"
    assert resolve("tiny", kind="painter", offline=True) == assets / "tiny" / "painter"
    assert resolve("tiny") == assets / "tiny"
    Path("tiny").mkdir()  # a folder of that name does not hide the bundled model
    assert resolve("tiny", kind="painter") == assets / "tiny" / "painter"


def test_bundled_but_missing(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ASSETS", tmp_path / "nothing")
    refused("'tiny'", "install", name="tiny", kind="painter")


def test_local_paths(cache):
    folder = Path("models/mine")
    (folder / "unet").mkdir(parents=True)
    refused("mine", "no weights", name="models/mine")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").touch()
    assert resolve("models/mine") == folder
    assert resolve(folder.absolute()) == folder.absolute()
    file = folder / "fox.safetensors"
    file.touch()
    assert resolve(str(file)) == file
    (folder / "fox.png").touch()
    refused("fox.png", "no checkpoint", name="models/mine/fox.png")


def test_unknown_names_come_with_the_nearest(cache):
    cached(cache, "google/vit-base-patch16-224", VIT)
    (Path("models") / "fox-classifier").mkdir(parents=True)
    Path("owl.safetensors").touch()
    refused("'tinny'", "did you mean tiny?", name="tinny")
    refused("did you mean google/vit-base-patch16-224", name="vit-base-patch16-224")
    refused("did you mean models/fox-classifier", name="./models/fox-clasifier")
    refused("did you mean owl.safetensors", name="owll.safetensors")
    refused("owner/name", "tiny", "google/vit-base-patch16-224", name="zzzz")
    for name in (
        "",
        "/gone/model",
        "a/b/c",
        "models/gone.safetensors",
        "owner/../name",
        "owner/name@",
        "owner/name@../x",
    ):
        refused(repr(name), name=name)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/model", "fox\0"])
def test_paths_that_cannot_be(name, cache):
    refused(repr(name[:5])[:-1], name=name)


def test_a_cached_name_needs_no_network(cache):
    snapshot = cached(cache, "google/vit", VIT)
    assert resolve("google/vit") == snapshot
    assert resolve("google/vit", offline=True) == snapshot
    assert resolve(f"google/vit@{COMMIT}") == snapshot
    painter = cached(cache, "owner/painter", PAINTER, OTHER)
    assert resolve("owner/painter") == painter


def test_revisions_are_kept_apart(cache):
    main = cached(cache, "google/vit", VIT)
    branch = cached(cache, "google/vit", VIT, OTHER, "refs/pr/1")
    assert resolve("google/vit@main") == main
    assert resolve("google/vit@refs/pr/1") == branch
    refused("google/vit@v2", "not in the cache", name="google/vit@v2", offline=True)


def test_the_cache_can_be_chosen(cache, tmp_path):
    snapshot = cached(tmp_path / "elsewhere", "google/vit", VIT)
    assert resolve("google/vit", cache_dir=tmp_path / "elsewhere") == snapshot
    refused("not in the cache", str(cache), name="google/vit", offline=True)


def test_offline_by_the_environment(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("google/vit", "network is switched off", name="google/vit")


@pytest.mark.parametrize("missing", ["model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"])
def test_a_part_of_a_model_in_the_cache_is_not_the_model(missing, cache):
    files = {name: content for name, content in (PAINTER if "unet" in missing else VIT).items() if name != missing}
    cached(cache, "owner/part", files)
    refused("owner/part", "not in the cache", name="owner/part", offline=True)
    assert "owner/part" not in {model.name for model in list_models()}


def test_a_missing_shard_is_noticed(cache):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    files = {"config.json": "{}", "model.safetensors.index.json": index, shards[0]: "1"}
    cached(cache, "owner/half", files)
    refused("not in the cache", name="owner/half", offline=True)
    whole = cached(cache, "owner/whole", {**files, shards[1]: "2"})
    assert resolve("owner/whole", offline=True) == whole


def test_downloads_only_what_is_needed(cache, monkeypatch):
    asked = {}

    def download(repo, revision, cache_dir, allow_patterns):
        asked.update(repo=repo, revision=revision, files=allow_patterns)
        return str(cached(cache, repo, VIT))

    files = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "README.md"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("google/vit@v2").name == COMMIT
    assert asked == {"repo": "google/vit", "revision": "v2", "files": ["config.json", "README.md", "model.safetensors"]}
    files[:] = ["README.md", "config.json", "model.onnx"]
    refused("owner/onnx", "no safetensors", name="owner/onnx")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, ["gated", "hf auth login"]),
        (RepositoryNotFoundError, ["neither a folder nor", "did you mean google/vit"]),
        (RevisionNotFoundError, ["no revision 'v9'"]),
        (ConnectionError, ["could not be fetched", "ConnectionError", "check the network"]),
    ],
)
def test_what_the_hub_answers(error, words, cache, monkeypatch):
    def fail(*args, **options):
        raise error.__new__(error)

    cached(cache, "google/vit", VIT)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    refused(*words, name="google/vitt@v9")


def test_wanted_of_a_classifier():
    files = ["config.json", "preprocessor_config.json", "README.md", "flax_model.msgpack", "tf_model.h5"]
    files += ["optimizer.pt", "checkpoint-500/model.safetensors", "checkpoint-500/config.json", "onnx/model.onnx"]
    settings = ["config.json", "preprocessor_config.json", "README.md"]
    for weights, chosen in [
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["model.fp16.safetensors", "model.safetensors", "model.bf16.safetensors"], ["model.safetensors"]),
        (["model.fp16.safetensors", "model.bf16.safetensors"], ["model.bf16.safetensors"]),
        (["pytorch_model.bin", "pytorch_model.fp16.bin"], ["pytorch_model.bin"]),
        ([], []),
    ]:
        assert wanted([*files, *weights]) == [*settings, *chosen]
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    assert wanted([*files, *shards]) == [*settings, *shards]
    variant = ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"]
    assert wanted([*shards, *variant]) == variant


def test_wanted_of_a_painter():
    needed = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "feature_extractor/preprocessor_config.json",
    ]
    others = [
        "v1-5-pruned.ckpt",
        "v1-5-pruned-emaonly.safetensors",
        "model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/model.onnx",
        "vae/diffusion_flax_model.msgpack",
        "safety_checker/model.safetensors",
        "vae_decoder/model.onnx",
        "text_encoder/pytorch_model.bin",
    ]
    assert wanted([*others, *needed]) == needed


def test_list_models(cache, assets):
    vit = cached(cache, "google/vit-base", VIT)
    cached(cache, "google/vit-base", VIT, OTHER, "v2")
    cached(cache, "owner/painter--two", PAINTER)
    cached(cache, "owner/bert", {**VIT, "config.json": '{"model_type": "bert"}'})
    cached(cache, "owner/corrupt", {**VIT, "config.json": "{"})
    cached(cache, "owner/flux", {**PAINTER, "model_index.json": '{"_class_name": "FluxPipeline"}'})
    cached(cache, "owner/timm", {**VIT, "config.json": '{"architecture": "vit_tiny_patch16_224"}'})
    (cache / ".locks").mkdir()
    models = list_models()
    assert [(model.name, model.kind) for model in models] == [
        ("tiny", "classifier"),
        ("tiny", "painter"),
        ("google/vit-base", "classifier"),
        ("google/vit-base@v2", "classifier"),
        ("owner/painter--two", "painter"),
        ("owner/timm", "classifier"),
    ]
    assert models[2].path == vit
    assert models[2].size == sum(len(content) for content in VIT.values())
    for model in models:
        assert resolve(model.name, kind=model.kind, offline=True) == model.path


def test_list_models_without_a_cache(tmp_path, assets):
    assert [model.name for model in list_models(tmp_path / "nothing")] == ["tiny", "tiny"]


def test_a_variant_is_fetched():
    files = ["model_index.json", "unet/config.json", "vae/config.json"]
    plain = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    half = [file.replace(".safetensors", ".fp16.safetensors") for file in plain]
    assert wanted([*files, *plain, *half]) == [files[0], files[1], plain[0], files[2], plain[1]]
    assert wanted([*files, *plain, *half], "fp16") == [files[0], files[1], half[0], files[2], half[1]]
