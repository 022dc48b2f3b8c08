"""MHIST: colorectal polyps, hyperplastic (HP) or sessile serrated (SSA), from the folder one gets after the form.

Wei et al., A Petri Dish for Histopathology Image Analysis, AIME 2021. The images may not be passed on: they stay in
the data folder, and what is made of them in the cache.
"""

import csv
import filecmp
import hashlib
import io
import json
import math
import os
import shutil
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils import results
from utils.data.dataset import Dataset, Split, stratified
from utils.data.polyps import load_polyps_standin
from utils.settings import settings

SOURCES = ("auto", "mhist", "standin")
CLASSES = ("HP", "SSA")
NAME, LABEL, VOTES, PARTITION = (
    "Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition"
)  # fmt: skip
ANNOTATORS, MAJORITY = 7, 4
SIZE = 224
# Images for each number of votes, 0 to 7: the published table.
PUBLISHED = {"train": (537, 497, 302, 209, 151, 106, 154, 219), "test": (186, 208, 124, 99, 65, 62, 96, 137)}
VALIDATION, SEED = 0.15, 0
SHOWN = 5  # offenders that an error lists; the rest are counted
MAX_FILE = 10 * 2**20  # bytes of one image; MHIST's are around 100 kB
MAX_TOTAL = 4 * 2**30  # of all images unpacked
MAX_RATIO = 200  # of unpacked to packed: PNG files hardly shrink any further


class MhistError(ValueError):
    """The folder does not hold MHIST; the message says what was found and what to do."""


@dataclass(frozen=True)
class Row:
    """One line of annotations.csv."""

    name: str
    votes: int
    partition: str


def load_mhist(
    source: str = "auto", folder: str | os.PathLike | None = None, cache=None, standin: dict | None = None
) -> Dataset:
    """MHIST as train, validation (15% of train, stratified by votes, fixed seed) and test, uint8 [n, 224, 224, 3].

    Labels are 0 for HP and 1 for SSA, the majority of seven pathologists; `subclasses` holds how many of them voted
    SSA, 0 to 7. The images are decoded once into one file, which is then mapped into memory, not read.

    Args:
        source: "mhist": the folder, or an error that says how to get it. "standin": drawn images of the same schema.
            "auto": the first where it exists, else the second; one printed line says which. A folder that exists but
            is bad is always an error.
        folder: holds annotations.csv and images.zip or the unzipped images, or has them in folders below; None means
            mhist_dataset/ in the data folder of the settings.
        cache: where the decoded images are kept; None means the cache of the settings.
        standin: how many images of how many pixels stand in, {"train": n, "test": n, "size": pixels}; None: as many as
            MHIST has.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; it can be one of {SOURCES}")
    folder = Path(folder or settings.data / "mhist_dataset")
    if source == "standin" or (source == "auto" and not os.path.lexists(folder)):
        if source == "auto":
            print(f"DATA: NOT MHIST but drawn images; their numbers are not MHIST's. There is no {folder.name}/.")
            if beside := _looks_like_mhist(folder.parent):
                print(f"DATA: {folder.parent.name}/ has {', '.join(beside)}. If that is MHIST, its annotations.csv and "
                      f"images.zip belong into a folder {folder.name}/ there.")  # fmt: skip
        return load_polyps_standin(**(standin or {}), cache=cache)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. MHIST is given out at https://bmirds.github.io/MHIST/ (a form): put its "
            'annotations.csv and images.zip there, or take source="standin".'
        )
    dataset = _load(folder, Path(cache or settings.cache.parent))
    if source == "auto":
        print(f"DATA: {dataset.source}, from {folder.name}/.")
    return dataset


def _looks_like_mhist(folder: Path) -> list[str]:
    """Files and folders that somebody may have meant to be read: a zip that was not unpacked, another name."""
    if not folder.is_dir():
        return []
    meant = ("annotations.csv", "images.zip")
    return sorted(p.name for p in folder.iterdir() if "mhist" in p.name.lower() or p.name.lower() in meant)[:SHOWN]


def _fail(faults: dict[str, list[str]]) -> None:
    """One error for all faults: the first offenders of each kind, and how many more there are."""
    lines = []
    for kind, offenders in faults.items():
        if offenders:
            more = f" and {len(offenders) - SHOWN:,} more" if len(offenders) > SHOWN else ""
            lines.append(f"{kind}: {', '.join(map(str, offenders[:SHOWN]))}{more}")
    if lines:
        raise MhistError(
            "The folder does not hold MHIST. " + "; ".join(lines) + ". Unpack the download afresh: annotations.csv "
            "and images.zip, as they were given out, and nothing else is needed."
        )


def read_annotations(path: Path) -> list[Row]:
    """The lines of annotations.csv, checked, sorted by image name, whatever their order in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MhistError(f"There is no {path.name} in {path.parent}: it comes with MHIST, beside images.zip.") from None
    except UnicodeDecodeError as error:
        raise MhistError(f"{path.name} is no text in UTF-8 ({error}); take the file as it was given out.") from error
    numbered = enumerate(csv.reader(io.StringIO(text), skipinitialspace=True), 1)
    try:
        lines = [(number, [cell.strip() for cell in line]) for number, line in numbered if any(map(str.strip, line))]
    except csv.Error as error:
        raise MhistError(f"{path.name} is no table ({error}); take the file as it was given out.") from error
    header = lines[0][1] if lines else []
    missing = [column for column in (NAME, LABEL, VOTES, PARTITION) if column not in header]
    if missing:
        raise MhistError(f"{path.name} lacks the columns {missing}; it has {header or 'nothing'}.")
    place = {column: header.index(column) for column in (NAME, LABEL, VOTES, PARTITION)}
    faults, rows = {}, []
    for number, line in lines[1:]:
        if len(line) < len(header):
            faults.setdefault("lines with too few columns", []).append(f"line {number}")
            continue
        name, label, votes, partition = (line[place[column]] for column in (NAME, LABEL, VOTES, PARTITION))
        if label not in CLASSES:
            faults.setdefault("labels that are neither HP nor SSA", []).append(f"{label!r} ({name})")
        elif not (votes.isdecimal() and int(votes) <= ANNOTATORS):
            faults.setdefault(f"votes that are no number from 0 to {ANNOTATORS}", []).append(f"{votes!r} ({name})")
        elif (label == "SSA") != (int(votes) >= MAJORITY):
            faults.setdefault("labels against the majority of the votes", []).append(f"{label} with {votes} ({name})")
        elif partition not in PUBLISHED:
            faults.setdefault("partitions that are neither train nor test", []).append(f"{partition!r} ({name})")
        elif not name:
            faults.setdefault("lines without an image name", []).append(f"line {number}")
        elif PurePosixPath(name).name != name or "\\" in name:
            faults.setdefault("image names that are paths", []).append(repr(name))
        else:
            rows.append(Row(name, int(votes), partition))
    counts = Counter(row.name for row in rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    both = {name for name in twice if len({row.partition for row in rows if row.name == name}) > 1}
    faults["images in both partitions"] = sorted(both)
    faults["images listed more than once"] = [name for name in twice if name not in both]
    faults["no lines at all"] = [] if lines[1:] else [path.name]
    faults["partitions without images of both classes"] = [
        part for part in PUBLISHED
        if lines[1:] and len({row.votes >= MAJORITY for row in rows if row.partition == part}) < 2
    ]  # fmt: skip
    _fail(faults)
    return sorted(rows, key=lambda row: row.name)


def _warn_of_counts(rows: list[Row]) -> bool:
    """Whether the counts of votes are the published ones; says loudly where they are not."""
    differing = []
    for part, published in PUBLISHED.items():
        found = Counter(row.votes for row in rows if row.partition == part)
        differing += [
            f"{part}, {votes} votes: {found[votes]} instead of {count}"
            for votes, count in enumerate(published)
            if found[votes] != count
        ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        print(f"DATA: WARNING: this is not the whole of MHIST as published ({'; '.join(differing[:SHOWN])}{more}).")
    return not differing


def _files(folder: Path) -> list[Path]:
    """All files below a folder, in order; those in folders that are only linked there too, which may lie on another
    disk."""
    found, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link that leads back
            inner.clear()
            continue
        seen.add(real)
        found += [path for name in names if (path := Path(place, name)).is_file()]
    return sorted(found)


class _Folder:
    """Images that lie unzipped somewhere below the folder."""

    def __init__(self, folder: Path):
        self.paths, self.differing = {}, []
        for path in _files(folder):
            if _counts_as_image(path.as_posix()):
                first = self.paths.setdefault(path.name, path)
                if first != path and not filecmp.cmp(first, path, shallow=False):
                    self.differing.append(path.name)

    def names(self) -> set[str]:
        return set(self.paths)

    def read(self, name: str) -> bytes:
        return self.paths[name].read_bytes()

    def too_large(self, wanted: set[str]) -> list[str]:
        return [name for name in wanted & self.names() if self.paths[name].stat().st_size > MAX_FILE]


class _Archive:
    """Images inside images.zip. Names, sizes and ratios are checked before anything is unpacked."""

    def __init__(self, path: Path):
        try:
            self.archive = zipfile.ZipFile(path)
            infos = self.archive.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise MhistError(f"{path.name} is damaged, truncated or no zip ({error}). Download it again.") from error
        climbing = [
            info.filename for info in infos
            if info.filename.startswith(("/", "\\")) or ".." in PurePosixPath(info.filename.replace("\\", "/")).parts
            or ":" in info.filename.split("/")[0]
        ]  # fmt: skip
        self.infos = {}
        twice = []
        for info in infos:
            if not info.is_dir() and _counts_as_image(info.filename):
                name = PurePosixPath(info.filename.replace("\\", "/")).name  # as some Windows programs write them
                twice += [name] if name in self.infos else []
                self.infos[name] = info
        total = sum(info.file_size for info in self.infos.values())
        _fail({
            "zip entries that climb out of the folder": climbing,
            "images that are in the zip more than once": twice,
            "encrypted zip entries": [name for name, info in self.infos.items() if info.flag_bits & 1],
            "zip entries that unpack to a suspicious size": [
                f"{name} ({info.compress_size:,} to {info.file_size:,} bytes)"
                for name, info in self.infos.items()
                if info.file_size > MAX_FILE or info.file_size > MAX_RATIO * max(info.compress_size, 1)
            ],
            "zip files that unpack to too much": [f"{total / 2**30:.1f} GiB"] if total > MAX_TOTAL else [],
        })  # fmt: skip

    def names(self) -> set[str]:
        return set(self.infos)

    def read(self, name: str) -> bytes:
        return self.archive.read(self.infos[name])  # checks the CRC

    def too_large(self, wanted: set[str]) -> list[str]:
        return []


def _given_out(path: str, ending: str) -> bool:
    """Whether it is a file of the data set with this ending, and not what macOS packs beside each file."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return path.lower().endswith(ending) and "__MACOSX" not in parts and not parts[-1].startswith("._")


def _counts_as_image(path: str) -> bool:
    return _given_out(path, ".png")


def _annotations(folder: Path) -> Path:
    """annotations.csv in the folder, or the only one below it: unpacking often makes a folder of its own."""
    direct = folder / "annotations.csv"
    below = [path for path in _files(folder) if path.name.lower() == direct.name]
    if direct.is_file() or not below:
        return direct
    if len(below) > 1:
        found = ", ".join(path.relative_to(folder).as_posix() for path in below[:SHOWN])
        raise MhistError(f"There are {len(below)} files annotations.csv below {folder} ({found}): leave one of them.")
    return below[0]


def _images_in(folder: Path, wanted: list[str]):
    """Where the images are: the unzipped ones where none is missing, else images.zip, else what is unzipped.

    A stray picture, or an unzipping that was broken off, thus hides no zip that has them all.
    """
    unzipped = _Folder(folder)
    zips = [path for path in _files(folder) if _given_out(path.relative_to(folder).as_posix(), ".zip")]
    if unzipped.names() and (unzipped.names() >= set(wanted) or not zips):
        _fail({"images that lie there more than once, and differ": sorted(set(unzipped.differing) & set(wanted))})
        return unzipped
    if not zips:
        raise MhistError(f"There are no images in {folder}: put images.zip there, or the unzipped images folder.")
    return _Archive(next((path for path in zips if path.name.lower() == "images.zip"), zips[0]))


def _decoded(name: str, content: bytes) -> np.ndarray | str:
    """The pixels of an image, uint8 [224, 224, 3], or what is wrong with it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (SIZE, SIZE) or image.mode != "RGB":
                return f"{name} ({image.mode}, {image.size[0]} x {image.size[1]})"
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{name} ({type(error).__name__})"


def _in_order(rows: list[Row]) -> tuple[list[Row], int, int]:
    """The rows as train, validation, test, and where the second and third begin; each part sorted by name."""
    train, test = ([row for row in rows if row.partition == part] for part in ("train", "test"))
    votes = np.array([row.votes for row in train], np.int32)
    validation, rest = stratified(votes, round(VALIDATION * len(train)), SEED)
    ordered = [train[i] for i in rest] + [train[i] for i in validation] + test
    return ordered, len(rest), len(train)


def _load(folder: Path, cache: Path) -> Dataset:
    rows = read_annotations(_annotations(folder))
    complete = _warn_of_counts(rows)
    rows, second, third = _in_order(rows)
    pixels = _pixels(folder, cache, [row.name for row in rows])
    votes = np.array([row.votes for row in rows], np.int32)
    labels = (votes >= MAJORITY).astype(np.int32)
    order = np.arange(len(rows))

    def part(begin, end):
        return Split(pixels[begin:end], labels[begin:end], order[begin:end], votes[begin:end])

    return Dataset(
        name="MHIST",
        source=f"MHIST, {third:,} + {len(rows) - third:,}{'' if complete else ', not as published'}",
        class_names=CLASSES,
        train=part(0, second),
        validation=part(second, third),
        test=part(third, len(rows)),
        joined=part(0, third),
    )


def _pixels(folder: Path, cache: Path, names: list[str]) -> np.memmap:
    """All images in the order of `names`, uint8 [n, 224, 224, 3], mapped from a file in the cache.

    The file is made where it is missing, or where its pixels or the images' files are not what its note says.
    """
    path, note = cache / "mhist.npy", cache / "mhist.json"
    shape = (len(names), SIZE, SIZE, 3)
    files = _fingerprint(folder)
    known = results.read_json(note) or {}
    if known.get("files") == files and known.get("names") == _digest_of(names):
        if results.file_digest(path) == known.get("sha256"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        print("DATA: the decoded images of MHIST are gone or damaged; they are decoded again.")
    images = _images_in(folder, names)
    missing = [name for name in names if name not in images.names()]
    large = images.too_large(set(names))
    _fail({"images of annotations.csv that are not there": missing, "images that are too large": large})
    cache.mkdir(parents=True, exist_ok=True)
    needed, free = math.prod(shape), shutil.disk_usage(cache).free
    if free < needed:  # a mapped file takes its space only when written to: a full disk would end the process
        raise OSError(
            f"The decoded images take {needed / 2**20:,.0f} MiB and {cache} has {free / 2**20:,.0f} left. Make room, "
            "or set KD_OUTPUT to a folder on another disk."
        )
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        bad = []
        for i, name in enumerate(names):
            try:
                found = _decoded(name, images.read(name))
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                found = f"{name} ({error})"
            if isinstance(found, str):
                bad.append(found)
            else:
                pixels[i] = found
        _fail({f"images that are not RGB of {SIZE} x {SIZE} pixels, or cannot be decoded": bad})
        pixels.flush()
        del pixels
        digest = results.file_digest(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    results.write_json(note, {"files": files, "names": _digest_of(names), "sha256": digest})
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _digest_of(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _fingerprint(folder: Path) -> str:
    """Tells whether the images' files are the ones that were decoded: names, sizes and times of change."""
    stamps = [
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in _files(folder)
        if path.suffix.lower() in (".png", ".zip")
    ]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
