"""A table of embeddings in LanceDB: one row a picture, of one model, kept up to date with a folder.

Search is exact: every vector is compared. Over `ANN_ROWS` rows the table gets an IVF index, whose partitions hold the
vectors as they are, so that distances stay exact and only far partitions are skipped.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyesel.errors import OutputError, SettingError
from eyesel.search import check_installed
from eyesel.search.identity import Identity

if TYPE_CHECKING:
    import pyarrow

TABLE, VECTOR, IDENTITY = "pictures", "vector", b"eyesel"
COLUMNS = ("path", "mtime", "size", "sha256", "label", "width", "height")
ANN_ROWS = 100_000
PROBES = 40  # partitions of an IVF index that are searched


@dataclass(frozen=True)
class Row:
    """What is known of a picture besides its vector."""

    path: str  # absolute
    mtime: int  # nanoseconds
    size: int  # bytes of the file
    sha256: str  # of these bytes
    label: str | None
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class Hit:
    """A picture that was found, and its cosine distance: 0 is the same direction, 1 at right angles, 2 opposite."""

    path: str
    label: str | None
    distance: float
    width: int
    height: int


class Index:
    """Made by `Index.open` or `Index.create`."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder, self._table = folder, table
        self.identity = Identity(**json.loads(table.schema.metadata[IDENTITY]))

    @staticmethod
    def exists(folder: str | Path) -> bool:
        return (Path(folder).expanduser() / f"{TABLE}.lance").is_dir()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """The index in a folder. Raises `SettingError` if there is none."""
        check_installed()
        import lancedb

        path = Path(folder).expanduser()
        if not cls.exists(path):
            raise SettingError(f"there is no index in {path}: make one with eyesel index build FOLDER --db {path}.")
        return cls(path, lancedb.connect(path).open_table(TABLE))

    @classmethod
    def create(cls, folder: str | Path, identity: Identity) -> "Index":
        """The index in a folder, made if there is none. Raises `SettingError` if it holds another model's vectors."""
        check_installed()
        import lancedb

        path = Path(folder).expanduser()
        if cls.exists(path):
            index = cls.open(path)
            index.check(identity)
            return index
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file: name a folder for the index.")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be made ({error.strerror}): choose another place.") from None
        return cls(path, lancedb.connect(path).create_table(TABLE, schema=_schema(identity)))

    def check(self, identity: Identity) -> None:
        """Raise `SettingError` unless this model's vectors are the ones that the table holds."""
        if identity.key != self.identity.key:
            raise SettingError(
                f"{self.folder} holds vectors of {self.identity}, and these would be of {identity}: "
                "use that model, or another folder for --db."
            )

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def rows(self) -> list[Row]:
        """All rows, without their vectors."""
        return _rows(self._table.search().select(list(COLUMNS)).to_arrow())

    def all(self) -> tuple[list[Row], np.ndarray]:
        """All rows in the order of their paths, and their vectors (B, dim) float32."""
        table = self._table.to_arrow().sort_by("path")
        return _rows(table), _vectors(table)

    def vectors_by_hash(self, hashes: Iterable[str]) -> dict[str, np.ndarray]:
        """The vectors (dim,) of those of the given hashes that are in the table."""
        wanted = ", ".join(map(_quoted, hashes))
        if not wanted:
            return {}
        table = self._table.search().where(f"sha256 IN ({wanted})").select(["sha256", VECTOR]).to_arrow()
        return dict(zip(table["sha256"].to_pylist(), _vectors(table), strict=True))

    def put(self, rows: Sequence[Row], vectors: Sequence[np.ndarray]) -> None:
        """Write rows with their vectors (dim,) each, in place of those of the same paths: all of them or none."""
        import pyarrow

        if not rows:
            return
        flat = pyarrow.array(np.concatenate(vectors))
        columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
        columns[VECTOR] = pyarrow.FixedSizeListArray.from_arrays(flat, self.identity.dim)
        table = pyarrow.table(columns, schema=_schema(self.identity))
        self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def drop(self, paths: Sequence[str], portion: int = 500) -> None:
        """Take rows out by their paths."""
        for start in range(0, len(paths), portion):
            quoted = ", ".join(_quoted(path) for path in paths[start : start + portion])
            self._table.delete(f"path IN ({quoted})")

    def tidy(self) -> None:
        """Merge the pieces that many small writes leave behind, and index a table that has grown large."""
        self._table.optimize()
        if len(self) >= ANN_ROWS and not self._table.list_indices():
            self.approximate()

    def approximate(self, partitions: int | None = None) -> None:
        """Make an IVF index of `partitions` (default: the square root of the rows)."""
        count = partitions or round(len(self) ** 0.5)
        self._table.create_index("cosine", num_partitions=count, vector_column_name=VECTOR, index_type="IVF_FLAT")

    def search(self, vector: np.ndarray, k: int = 10, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The `k` pictures nearest to a vector (dim,), nearest first.

        `where` is a condition in SQL over the columns path, label, width, height, size, mtime and sha256, such as
        "label = 'fox' AND width > 100". `exact` leaves an IVF index aside. Raises `SettingError` for a bad condition.
        """
        if k < 1:
            raise SettingError(f"k is {k}; it must be at least 1.")
        query = self._table.search(np.asarray(vector, np.float32), vector_column_name=VECTOR)
        query = query.distance_type("cosine").limit(k).nprobes(PROBES)
        query = query.bypass_vector_index() if exact else query
        query = query if where is None else query.where(where)
        try:
            found = query.select(["path", "label", "width", "height", "_distance"]).to_arrow()
        except (ValueError, RuntimeError) as error:
            if where is None:
                raise
            raise SettingError(f"where {where!r} is no condition ({_reason(error)}); {_advice()}") from None
        return [
            # rounding can take the distance of a picture from itself below 0
            Hit(row["path"], row["label"], max(0.0, row["_distance"]), row["width"], row["height"])
            for row in found.to_pylist()
        ]


def _schema(identity: Identity) -> "pyarrow.Schema":
    import pyarrow

    types = {"mtime": pyarrow.int64(), "size": pyarrow.int64(), "width": pyarrow.int32(), "height": pyarrow.int32()}
    fields = [pyarrow.field(name, types.get(name, pyarrow.string())) for name in COLUMNS]
    fields.append(pyarrow.field(VECTOR, pyarrow.list_(pyarrow.float32(), identity.dim)))
    return pyarrow.schema(fields, metadata={IDENTITY: json.dumps(asdict(identity)).encode()})


def _rows(table: "pyarrow.Table") -> list[Row]:
    return [Row(**row) for row in table.select(list(COLUMNS)).to_pylist()]


def _vectors(table: "pyarrow.Table") -> np.ndarray:
    column = table[VECTOR].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)  # (B, dim)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _reason(error: Exception) -> str:
    """The part of LanceDB's message that concerns the user: one line, without the places in its source."""
    text = " ".join(str(error).split()).split(", /")[0].removeprefix("Invalid input, ")
    return text.rstrip(".")[:200]


def _advice() -> str:
    return f"it is SQL over {', '.join(COLUMNS)}, such as \"label = 'fox' AND width > 100\"."
