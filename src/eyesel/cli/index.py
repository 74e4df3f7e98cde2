from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyesel.cli.options import BatchSize, Device, Force, Json, Model, Offline, Precision, print_json, progress
from eyesel.errors import OutputError, SettingError

if TYPE_CHECKING:
    import numpy as np

    from eyesel.classifier import ImageClassifier
    from eyesel.search.identity import Identity, Pool
    from eyesel.search.index import Index

MOST_ON_SHEET = 240

app = typer.Typer(
    help="Search, duplicates, clusters and outliers of folders of pictures, by their embeddings.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Db = Annotated[Path, typer.Option(help="The folder of the index.", metavar="DIR")]
Sheet = Annotated[Path | None, typer.Option(help="Also write a contact sheet (.png, .jpg, .webp).", metavar="FILE")]
IndexModel = Annotated[
    str | None, typer.Option("--model", "-m", help="As everywhere; default the index's own, for a new one `tiny`.")
]


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Of pictures, with those below it.", metavar="FOLDER")],
    db: Db,
    model: IndexModel = None,
    pool: Annotated[Literal["cls", "mean"], typer.Option(help="Class token, or mean of the patches.")] = "cls",
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Embed the pictures of a folder into an index, or bring it up to date: new, changed, moved and deleted files.

    The label of a picture is what metadata.jsonl or metadata.csv says (file_name, label), else the name of its folder.
    Stopped builds go on where they were. An index holds the vectors of one model.

    Example: eyesel index build photos/ --db photos.db
    """
    from eyesel.search import check_installed

    check_installed()

    from eyesel.images import find_images
    from eyesel.search.build import build
    from eyesel.search.index import Index

    if not folder.is_dir():
        raise SettingError(f"{folder} is no folder: give the one that the pictures are in.")
    if batch_size < 1:
        raise SettingError(f"--batch-size is {batch_size}; it must be at least 1.")
    files = find_images(folder)
    there = Index.open(db).identity if Index.exists(db) else None
    name = model or (there.name if there else "tiny")
    classifier, identity = _classifier(name, pool, device, precision, offline)
    index = Index.create(db, identity)
    with progress("indexing", len(files)) as advance:
        report = build(index, classifier, folder, batch_size, advance=advance)
    if json:
        print_json({"db": str(db), "rows": len(index), "model": str(index.identity), **vars(report)})
        return
    counts = {name: count for name, count in vars(report).items() if isinstance(count, int) and count}
    done = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing to do"
    typer.echo(f"{db}: {len(index)} pictures of {index.identity}: {done}")
    for problem in report.unreadable.values():
        typer.echo(f"eyesel: note: left out: {problem}", err=True)


@app.command()
def search(
    images: Annotated[list[str], typer.Argument(help="One picture, or several, whose mean is taken.", metavar="IMAGE")],
    db: Db,
    top_k: Annotated[int, typer.Option(help="How many pictures to find.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="SQL over path, label, width, height, size: \"label = 'fox' AND width > 100\".")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare all, even where a large index can skip some.")
    ] = False,
    sheet: Sheet = None,
    model: IndexModel = None,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Find the pictures that look most like one, or like the mean of several; nearest first, by cosine distance.

    Example: eyesel index search fox.png --db photos.db --where "label = 'fox'" --sheet found.png
    """
    index = _opened(db, sheet)

    from eyesel.images import find_images
    from eyesel.search.distances import unit

    files = find_images(images)
    pool = index.identity.pool
    classifier, identity = _classifier(model or index.identity.name, pool, device, precision, offline)
    index.check(identity)
    vectors = unit(classifier.embed(files, pool))
    hits = index.search(unit(vectors.mean(0)), top_k, where, exact)
    _save_sheet(sheet, [(f"{hit.distance:.3f} {hit.label or ''}", hit.path) for hit in hits])
    if json:
        print_json({"query": [str(file) for file in files], "hits": [vars(hit) for hit in hits]})
        return
    if len(files) > 1:
        typer.echo(f"eyesel: note: searched by the mean of {len(files)} pictures", err=True)
    for hit in hits:
        typer.echo(f"{hit.distance:8.4f}  {hit.label or '-':<16}  {hit.path}")
    if not hits:
        typer.echo("nothing was found", err=True)


@app.command()
def duplicates(
    db: Db,
    threshold: Annotated[float, typer.Option(help="The least cosine of near duplicates, up to 1.")] = 0.995,
    sheet: Sheet = None,
    json: Json = False,
) -> None:
    """Groups of pictures that are the same file, or almost the same to the model.

    Example: eyesel index duplicates --db photos.db --sheet twice.png
    """
    index = _opened(db, sheet)

    from eyesel.search.duplicates import duplicates

    rows, vectors = index.all()
    groups = duplicates(rows, vectors, threshold)
    entries = [
        # a title over the first of each group
        ("" if j else f"{i + 1}: {'same' if group.exact else format(group.similarity, '.4f')}", rows[number].path)
        for i, group in enumerate(groups)
        for j, number in enumerate(group.rows)
    ]
    _save_sheet(sheet, entries)
    if json:
        print_json(
            [
                {"exact": g.exact, "similarity": g.similarity, "files": [rows[number].path for number in g.rows]}
                for g in groups
            ]
        )
        return
    for group in groups:
        typer.echo("the same bytes" if group.exact else f"similar by {group.similarity:.4f}")
        for number in group.rows:
            typer.echo(f"  {rows[number].path}")
    typer.echo(f"{len(groups)} {'group' if len(groups) == 1 else 'groups'} among {len(rows)} pictures")


@app.command()
def clusters(
    db: Db,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the sheets, the map and a list.")],
    method: Annotated[Literal["kmeans", "hdbscan"], typer.Option(help="How clusters are found.")] = "kmeans",
    k: Annotated[int | None, typer.Option("--k", help="Clusters of k-means; default by the silhouette.")] = None,
    most: Annotated[int, typer.Option("--max-k", help="The most clusters to try.")] = 100,
    least: Annotated[int, typer.Option("--min-size", help="Pictures of HDBSCAN's smallest cluster.")] = 5,
    force: Force = False,
    json: Json = False,
) -> None:
    """Group the pictures: a contact sheet of each cluster, and a map of all, with those near that are alike.

    Example: eyesel index clusters --db photos.db -o clusters/
    """
    index = _opened(db)

    from eyesel.search.clusters import hdbscan, kmeans, places
    from eyesel.search.pictures import write_clusters

    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not force:
        raise OutputError(
            f"{output} exists already: choose another folder, or allow files in it to be replaced (--force)."
        )
    rows, vectors = index.all()
    found = hdbscan(vectors, least) if method == "hdbscan" else kmeans(vectors, k, most)
    facts = write_clusters(output, rows, found, places(vectors))
    if json:
        print_json(facts)
        return
    chosen = found.silhouettes.get(found.count)
    how = "" if chosen is None else f" (silhouette {chosen:.2f}, the best of {len(found.silhouettes)} numbers)"
    typer.echo(f"{output}: {found.count} clusters of {len(rows)} pictures{how}")
    for cluster in facts["clusters"]:
        words = ", ".join(f"{label} {share:.0%}" for label, share in cluster["labels"].items())
        typer.echo(f"  {cluster['sheet']}: {cluster['size']} pictures{': ' if words else ''}{words}")


@app.command()
def outliers(
    db: Annotated[Path | None, typer.Option(help="An index, whose odd pictures are shown.", metavar="DIR")] = None,
    fit: Annotated[Path | None, typer.Option(help="A folder of good pictures.", metavar="GOOD")] = None,
    score: Annotated[Path | None, typer.Option(help="A folder of pictures to judge by them.", metavar="NEW")] = None,
    k: Annotated[int, typer.Option("--k", help="How many nearest neighbours count.")] = 3,
    top: Annotated[int, typer.Option(help="How many of the oddest to show.")] = 20,
    sheet: Sheet = None,
    model: Model = "tiny",
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """The pictures farthest from their nearest neighbours; with --fit and --score, anomalies beside good pictures.

    Where NEW has labelled pictures (folders in it), normal are those labelled `good` or as some picture of GOOD is, all
    others are anomalies, and the AUROC is told.

    Example: eyesel index outliers --fit good/ --score new/ --sheet odd.png
    """
    _check_sheet(sheet)
    if top < 1:
        raise SettingError(f"--top is {top}; it must be at least 1.")

    from eyesel.search import outliers as o

    facts: dict[str, Any]
    if db is not None and fit is None and score is None:
        rows, vectors = _opened(db).all()
        entries = [(row.path, row.label) for row in rows]
        scores, facts = o.spread(vectors, k), {"pictures": len(rows)}
    elif fit is not None and score is not None:
        from eyesel.classifier import ImageClassifier

        classifier = ImageClassifier.load(model, device=device, precision=precision, offline=offline)
        good, good_vectors = _embedded(classifier, fit, batch_size, "fitting")
        entries, vectors = _embedded(classifier, score, batch_size, "scoring")
        scores, limit = o.anomaly(good_vectors, vectors, k), o.threshold(good_vectors, k)
        facts = {"good": len(good), "pictures": len(entries), "threshold": limit, "beyond": int((scores > limit).sum())}
        facts["auroc"] = o.auroc_by_label(scores, [label for _, label in entries], {label for _, label in good})
    else:
        raise SettingError("outliers takes --db DIR, or both --fit GOOD and --score NEW.")
    order = (-scores).argsort(kind="stable")
    odd = [{"path": entries[i][0], "label": entries[i][1], "distance": float(scores[i])} for i in order]
    _save_sheet(sheet, [(f"{each['distance']:.3f} {each['label'] or ''}", each["path"]) for each in odd[:top]])
    if json:
        print_json({**facts, "scores": odd})
        return
    for each in odd[:top]:
        typer.echo(f"{each['distance']:8.4f}  {each['label'] or '-':<16}  {each['path']}")
    if "auroc" in facts:
        known = "unknown (no labels of both kinds)" if facts["auroc"] is None else f"{facts['auroc']:.4f}"
        typer.echo(
            f"{facts['beyond']} of {facts['pictures']} lie beyond {facts['threshold']:.4f}, within which 95 % of the "
            f"{facts['good']} good ones lie; AUROC {known}"
        )


def _opened(db: Path, sheet: Path | None = None) -> "Index":
    from eyesel.search.index import Index

    _check_sheet(sheet)
    return Index.open(db)


def _classifier(
    name: str, pool: "Pool", device: str, precision: str, offline: bool
) -> "tuple[ImageClassifier, Identity]":
    from eyesel.classifier import ImageClassifier
    from eyesel.search.identity import identity_of

    classifier = ImageClassifier.load(name, device=device, precision=precision, offline=offline)
    return classifier, identity_of(classifier, pool, offline)


def _embedded(
    classifier: "ImageClassifier", folder: Path, batch_size: int, what: str
) -> "tuple[list[tuple[str, str | None]], np.ndarray]":
    """(path, label) of the pictures of a folder, and their vectors; what cannot be read is left out and said."""
    import numpy as np

    from eyesel.errors import ImageError
    from eyesel.images import find_images
    from eyesel.images.labels import folder_labels

    labels = folder_labels(folder, find_images(folder))
    entries, vectors, problems = [], [], []
    with progress(what, len(labels)) as advance:
        answers = classifier.embed_many(list(labels), batch_size=batch_size)
        for (file, label), answer in zip(labels.items(), answers, strict=True):
            if answer.value is None:
                problems.append(answer.error)
            else:
                entries.append((str(file), label))
                vectors.append(answer.value)
            advance()
    if not vectors:
        raise ImageError(f"none of the pictures in {folder} can be read: {problems[0]}")
    for problem in problems:
        typer.echo(f"eyesel: note: left out: {problem}", err=True)
    return entries, np.stack(vectors)


def _check_sheet(sheet: Path | None) -> None:
    from eyesel.images import WRITABLE, check_writable

    if sheet is not None:
        check_writable(sheet, WRITABLE)


def _save_sheet(sheet: Path | None, entries: Sequence[tuple[str, str]]) -> None:
    if sheet is None:
        return
    from eyesel.images import save_image
    from eyesel.search.pictures import contact_sheet

    if not entries:
        typer.echo(f"eyesel: note: there is nothing to show, and {sheet} was not written", err=True)
        return
    if len(entries) > MOST_ON_SHEET:
        typer.echo(f"eyesel: note: {sheet} shows the first {MOST_ON_SHEET} of {len(entries)} pictures", err=True)
    save_image(contact_sheet(entries[:MOST_ON_SHEET]), sheet)
