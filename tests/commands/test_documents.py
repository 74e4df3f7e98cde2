"""What README.md and docs/ say: every command line parses, every option exists, every link leads somewhere.

Blocks fenced as `sh` and `python` are examples that run one after the other in an empty folder, page by page, where a
page has one of `sh`; other blocks of commands are for files or servers of one's own, and are only parsed.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from transformers import TrainingArguments

import eyesel
from eyesel.cli import app
from eyesel.train.arguments import read_words

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_OTHERS = {"--nproc-per-node", "--no-python", "--build-arg"}  # torchrun's and docker's
RUN = [page for page in PAGES if re.search(r"^```sh$", page.read_text(encoding="utf-8"), re.MULTILINE)]


def blocks(text):
    """(language, content) of each block of code."""
    yield from FENCED.findall(text)
    for block in re.findall(r"(?:^    .*\n|^\n)+", FENCED.sub("", text), re.MULTILINE):
        yield "", re.sub("^    ", "", block, flags=re.MULTILINE)


def words(text):
    """The words of each `eyesel ...` in lines of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        parts = shlex.split(line, comments=True) if "eyesel " in line else []
        while "eyesel" in parts:
            parts = parts[parts.index("eyesel") + 1 :]
            yield parts


def find(parts):
    """The command that words begin with, and the rest of them."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert parts and parts[0] in command.commands, f"there is no command {parts}"
        command, parts = command.commands[parts[0]], parts[1:]
    return command, parts


def parse(parts):
    """As the program does, without reading a file: (the command, values by parameter, what is left)."""
    command, rest = find(parts)
    context = command.context_class(command, **command.context_settings)
    if not context.allow_extra_args:
        values, left, _ = command.make_parser(context).parse_args(list(rest))
        return command, values, left
    command.parse_args(context, list(rest))  # of `train`: what is left are TrainingArguments, by their names
    read_words(context.args)
    return command, context.params, []


def every_command(group):
    for command in group.commands.values():
        yield from every_command(command) if hasattr(command, "commands") else [command]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_parse(page):
    for language, block in blocks(page.read_text(encoding="utf-8")):
        for parts in words(block) if language in ("", "sh") else ():
            command, values, left = parse(parts)
            assert not left, f"{parts}: nothing takes {left}"
            missing = [p.name for p in command.params if p.required and values.get(p.name) is None]
            assert not missing, f"{parts}: {missing} is missing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page):
    text = re.sub(r"^    .*$", "", FENCED.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    parameters = [p for command in every_command(typer.main.get_command(app)) for p in command.params]
    known = {name for p in parameters for name in (*p.opts, *p.secondary_opts)} | OF_OTHERS | of_training()
    for code in re.findall(r"`([^`\n]+)`", text):
        code = code.replace("\\|", "|")
        if code.startswith("eyesel "):
            command, rest = find(code.split()[1:])
            known_here = {name for parameter in command.params for name in parameter.opts}
            known_here |= of_training() if command.context_settings else {"--help"}
            named = {word for word in rest if word.startswith("-")}
            assert named <= known_here, f"{code}: there is no {named - known_here}"
        elif code.startswith("--"):
            for name in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
                assert name in known, f"{code}: there is no {name}"


def of_training():
    return {f"--{field.name.replace('_', '-')}" for field in fields(TrainingArguments)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8"))):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            there = page.parent / name if name else page
            assert there.exists(), target
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not anchor or anchor in anchors, target


def test_every_room_is_described():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = [path for path in (ROOT / "src" / "eyesel").iterdir() if not path.name.startswith(("_", "py.typed"))]
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in inside}
    assert {room for room in rooms if not re.search(rf"(?<!\w){room}", text)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_examples_run(page, run, tmp_path):
    """In order, in an empty folder, and in this process where that is possible."""
    environment = {**os.environ, "PYTHONPATH": str(Path(eyesel.__file__).parents[1])}
    program = f'eyesel() {{ "{sys.executable}" -m eyesel "$@"; }}\n'
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, page.name, "exec"), {})
        for line in block.splitlines() if language == "sh" else ():
            if line.startswith("eyesel "):
                code, _, err = run(*next(words(line)))
                assert code == 0, f"{line}\n{err}"
            else:
                subprocess.run(["bash", "-euo", "pipefail", "-c", program + line], env=environment, check=True)
