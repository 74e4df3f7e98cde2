"""The output folder of a run: begun, gone on with, or refused because another run is in it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments

from eyesel import __version__
from eyesel.errors import OutputError, SettingError
from eyesel.train.checkpoints import last_checkpoint, remove_unfinished
from eyesel.weights.save import write_json

RECORD = "run.json"
METRICS = "metrics.jsonl"

# What may differ between a run and its continuation, because no weight depends on it.
_FREE = (
    *("output_dir", "resume_from_checkpoint", "local_rank", "ddp_timeout", "skip_memory_metrics", "use_cpu"),
    *("log_", "logging_", "disable_tqdm", "report_to", "run_name", "project", "trackio_", "save_", "hub_", "push_to"),
    *("dataloader_num_workers", "dataloader_pin", "dataloader_persistent", "dataloader_prefetch"),
)


class Output:
    """`checkpoint` is the last good one of a run that goes on, or None; `finished` says that nothing is left to do."""

    def __init__(self, folder: Path, checkpoint: Path | None, finished: bool, record: dict[str, Any]) -> None:
        self.folder, self.checkpoint, self.finished, self._record = folder, checkpoint, finished, record

    @classmethod
    def begin(
        cls, args: TrainingArguments, settings: Mapping[str, Any], resume: bool = False, force: bool = False
    ) -> "Output":
        """`settings` are those of the method, plain enough for JSON. To be called by every process of a run.

        A folder with another run is refused unless `resume` goes on with it, which needs the same settings, or `force`
        removes it; a folder with anything else is always refused. Raises `OutputError` or `SettingError`.
        """
        if resume and force:
            raise SettingError("resume goes on with a run and force begins anew: say one of them.")
        folder = Path(str(args.output_dir)).expanduser()
        record = json.loads(
            json.dumps({"eyesel": __version__, "settings": dict(settings), "arguments": _fixed(args)}, default=str)
        )
        finished = False
        if args.process_index == 0:  # TrainingArguments has set up the processes by now
            finished = _prepare(folder, record, resume, force)
        PartialState().wait_for_everyone()
        if args.process_index != 0:
            finished = bool(read_record(folder).get("finished"))
        return cls(folder, last_checkpoint(folder) if resume else None, finished, record)

    def finish(self) -> None:
        """Say that the run is done; to be called last."""
        write_json(self.folder / RECORD, {**self._record, "finished": True})
        self.finished = True


def read_record(folder: Path) -> dict[str, Any]:
    """What a run was begun with; empty if there is none."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder / RECORD} cannot be read ({error}): choose another folder.") from None


def _prepare(folder: Path, record: Mapping[str, Any], resume: bool, force: bool) -> bool:
    """Make the folder ready; True if the run in it is finished."""
    there = read_record(folder) if folder.is_dir() else {}
    if resume:
        if not there:
            raise OutputError(f"{folder} holds no run to go on with: leave --resume out to begin one.")
        _check_same(folder, there, record)
        remove_unfinished(folder)
        return bool(there.get("finished"))
    if there and not force:
        raise OutputError(f"{folder} holds another run: go on with it (--resume), or begin anew (--force).")
    if folder.exists() and not there and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and holds no run of eyesel: it was left alone; choose another folder.")
    try:
        if there:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): choose another place.") from None
    return False


def _check_same(folder: Path, there: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    for part in ("settings", "arguments"):
        before, now = there.get(part, {}), record[part]
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                raise SettingError(
                    f"the run in {folder} was begun with {name} {before.get(name)!r}, not {now.get(name)!r}: go on "
                    "with the same settings, or begin anew (--force)."
                )


def _fixed(args: TrainingArguments) -> dict[str, Any]:
    return {name: value for name, value in args.to_dict().items() if not name.startswith(_FREE)}
