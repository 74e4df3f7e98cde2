"""The output folder of a run: begun, gone on with, or refused because another run is in it."""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError
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


# Settings that are fingerprints.
_SEEN = {
    "pictures": "the pictures, their names or what is said of them are",
    "kept": "the pictures of class_data, their names or what is said of them are",
    "weights": "the weights of the base are",
}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT}


class Output:
    """`checkpoint` is the last good one of a run that goes on, or None; `finished` says that nothing is left to do."""

    def __init__(self, folder: Path, checkpoint: Path | None, finished: bool, record: dict[str, Any]) -> None:
        self.folder, self.checkpoint, self.finished, self._record = folder, checkpoint, finished, record

    @classmethod
    def begin(
        cls,
        args: TrainingArguments,
        settings: Mapping[str, Any],
        resume: bool = False,
        force: bool = False,
        reads: Sequence[str | Path | None] = (),
    ) -> "Output":
        """`settings` are those of the method, plain enough for JSON. To be called by every process of a run.

        A folder with another run is refused unless `resume` goes on with it, which needs the same settings, or `force`
        removes it; a folder with anything else is always refused, as is one in the first folder that the run `reads`
        (its data), or with any of them in it. Raises `OutputError` or `SettingError`.
        """
        if resume and force:
            raise SettingError("resume goes on with a run and force begins anew: say one of them.")
        folder = Path(str(args.output_dir)).expanduser()
        record = json.loads(
            json.dumps({"eyesel": __version__, "settings": dict(settings), "arguments": _fixed(args)}, default=str)
        )
        finished = False
        if args.process_index == 0:  # TrainingArguments has set up the processes by now
            _check_apart(folder, [Path(each).expanduser() for each in reads if each is not None], force)
            finished = _prepare(folder, record, resume, force)
        PartialState().wait_for_everyone()
        if args.process_index != 0:
            finished = bool(read_record(folder).get("finished"))
        return cls(folder, last_checkpoint(folder) if resume else None, finished, record)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What ends a run from outside, Ctrl-C or a full disk, is said with how it goes on."""
        try:
            yield
        except KeyboardInterrupt:
            if PartialState().is_main_process:
                print(f"\neyesel: stopped; {self.how_to_go_on()}", file=sys.stderr)
            raise
        except (OSError, SafetensorError) as error:
            if isinstance(error, OSError) and error.errno not in _DISK:
                raise
            raise OutputError(
                f"{self.folder} cannot be written ({_line(error)}): make room; {self.how_to_go_on()}."
            ) from error

    def how_to_go_on(self) -> str:
        """In words, behind a semicolon."""
        last = last_checkpoint(self.folder)
        if last is None:
            return "there is no checkpoint yet, so --resume begins anew"
        return f"the last good checkpoint is {last}, from which --resume goes on"

    def promise(self, name: str, value: str) -> None:
        """One more thing that a run which goes on must have been begun with, known only now: one of `_SEEN`."""
        before = read_record(self.folder).get(name)
        if self.checkpoint is not None and before not in (None, value):
            raise _other(name, self.folder)
        self._record = {**self._record, name: value}
        if before != value and PartialState().is_main_process:
            _write_record(self.folder, self._record)

    def finish(self) -> None:
        """Say that the run is done; to be called last."""
        _write_record(self.folder, {**self._record, "finished": True})
        self.finished = True


def seen(sources: Iterable[Any], said: Iterable[Any]) -> str:
    """A fingerprint of the pictures of a run by their names, the lengths of their files, and what is said of them."""
    digest = hashlib.sha256()
    for source, words in zip(sources, said, strict=True):
        size = Path(source).stat().st_size if isinstance(source, str | Path) else 0
        digest.update(f"{source if size else ''} {size} {words!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def read_record(folder: Path) -> dict[str, Any]:
    """What a run was begun with; empty if there is none."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{folder / RECORD} cannot be read ({error}): choose another folder.") from None


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """As a whole, whenever the run is killed."""
    new = folder / f"{RECORD}.tmp"
    write_json(new, record)
    new.replace(folder / RECORD)


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
        _write_record(folder, record)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): choose another place.") from None
    return False


def _check_apart(folder: Path, reads: Sequence[Path], force: bool) -> None:
    """What a run reads is not removed with the one before it, and what it writes does not become its data."""
    place = folder.resolve()
    there = [path for path in reads if path.exists()]
    inside = next((path for path in there if force and path.resolve().is_relative_to(place)), None)
    if inside is not None:
        raise OutputError(f"{folder} holds {inside}, which is read here: choose another folder, or move it out.")
    if there and there[0] == reads[0] and there[0].resolve() in place.parents:
        raise OutputError(f"{folder} lies among the pictures of {there[0]}: choose a place outside.")


def _check_same(folder: Path, there: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    for part in ("settings", "arguments"):
        before, now = there.get(part, {}), record[part]
        for name in [*now, *before]:
            if before.get(name) == now.get(name):
                continue
            if name in _SEEN:
                raise _other(name, folder)
            raise SettingError(
                f"the run in {folder} was begun with {name} {before.get(name)!r}, not {now.get(name)!r}: go on "
                "with the same settings, or begin anew (--force)."
            )


def _other(name: str, folder: Path) -> SettingError:
    return SettingError(
        f"{_SEEN[name]} not those that the run in {folder} was begun with: bring them back, or begin anew (--force)."
    )


def _fixed(args: TrainingArguments) -> dict[str, Any]:
    return {name: value for name, value in args.to_dict().items() if not name.startswith(_FREE)}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
