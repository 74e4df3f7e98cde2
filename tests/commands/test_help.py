"""Every command explains itself."""

import re


def test_help_of_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    commands = re.findall(r"^  (\w+) ", out[out.index("Commands") :], re.MULTILINE)
    groups = {"index", "models", "train"}
    assert {"classify", "embed", "attend", "generate", "inpaint", "show", "compare", "serve", *groups} <= set(commands)
    for command in [
        *([c] for c in commands if c not in groups),
        *(["index", c] for c in ("build", "search", "duplicates", "clusters", "outliers")),
        *(["models", c] for c in ("list", "show", "convert", "handler")),
        *(["train", c] for c in ("classifier", "diffusion")),
    ]:
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example: eyesel " + " ".join(command) in out
