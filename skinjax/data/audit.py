"""A whole data set looked at: what is in it, what is broken, and what would leak into a test."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from skinjax.data.findings import Finding
from skinjax.data.inspection import Inspected, inspect
from skinjax.data.near_duplicates import ORIENTATIONS, THUMBNAIL_SIZE, find_pairs
from skinjax.data.records import MAX_SHARE_LEFT_OUT
from skinjax.data.sources.example import Example, Source
from skinjax.data.sources.files import ORPHANED_MASKS
from skinjax.data.threads import map_in_order

# The random split that a leak is told of, as most notebooks make it.
TEST_SHARE = 0.2
NUM_DRAWS = 50

_AHEAD = 64  # examples read ahead by a thread pool


@dataclass(frozen=True)
class AuditedSource:
    """One data set with everything that was seen of it.

    Attributes:
      source: The data set.
      root: Where it lies.
      examples: All of them.
      inspected: What was seen, one an example.
      findings: What is wrong with the set or its files.
      decoded: The indices of the examples whose pictures decode, int [M].
      thumbnails: What these are compared by, uint8 [M, 32, 32].
      hashes: Their perceptual hashes, uint64 [M, 8].
    """

    source: Source
    root: str
    examples: Sequence[Example]
    inspected: list[Inspected]
    findings: list[Finding]
    decoded: np.ndarray
    thumbnails: np.ndarray
    hashes: np.ndarray


def audit_source(
    source: Source,
    examples: Sequence[Example],
    root: str,
    num_threads: int,
    max_pixels: int,
    update: Callable[[int], None],
) -> AuditedSource:
    """Reads every file of a data set.

    Args:
      source: The data set, opened with strict=False.
      examples: All of its examples.
      root: Where it lies, for the findings.
      num_threads: That read and decode.
      max_pixels: The largest height times width of a picture or mask that is read.
      update: Is told how many more examples are done.
    """
    expects_mask = any(example.mask_name for example in examples)
    findings = [
        Finding(file, what, "", left_out=what != ORPHANED_MASKS) for file, what in source.missing
    ]
    inspected: list[Inspected] = []
    decoded: list[int] = []
    # In one piece each: as objects of their own they would take a third more.
    thumbnails = np.empty((len(examples), THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
    hashes = np.empty((len(examples), len(ORIENTATIONS)), np.uint64)
    with ThreadPoolExecutor(num_threads) as pool:
        look = functools.partial(inspect, expects_mask=expects_mask, max_pixels=max_pixels)
        for _, (seen, compared) in map_in_order(pool, look, examples, _AHEAD):
            if compared is not None:
                thumbnails[len(decoded)], hashes[len(decoded)] = compared
                decoded.append(len(inspected))
            inspected.append(seen)
            findings += seen.findings
            update(1)
    findings += _too_many(findings, len(examples), root)
    findings += _lesions_across_parts(examples)
    return AuditedSource(
        source,
        root,
        examples,
        inspected,
        findings,
        np.array(decoded, int),
        thumbnails[: len(decoded)],
        hashes[: len(decoded)],
    )


def _too_many(findings: list[Finding], total: int, root: str) -> Iterator[Finding]:
    """A finding of its own where so many are broken or missing that preparation refuses them."""
    # Pictures that are broken are counted together, in whatever way they are.
    kinds = collections.Counter(
        "image: broken" if f.finding.startswith("image: ") else f.finding
        for f in findings
        if f.left_out
    )
    for kind, count in sorted(kinds.items()):
        if count > MAX_SHARE_LEFT_OUT * total:
            detail = f"{kind}: {count:,} of {total:,}; up to 1% are left out of a training"
            yield Finding(root, "above 1% cannot be used", detail, stops=True)


def _lesions_across_parts(examples: Sequence[Example]) -> Iterator[Finding]:
    """Lesions, or patients, that the official parts divide."""
    parts: dict[str, set[str]] = collections.defaultdict(set)
    for example in examples:
        if example.lesion_id and example.part:
            parts[example.lesion_id].add(example.part)
    for lesion_id, found in sorted(parts.items()):
        if len(found) > 1:
            yield Finding(lesion_id, "lesion in several parts", ", ".join(sorted(found)))


@dataclass(frozen=True)
class Duplicate:
    """Two pictures, of one set or of two, that show the same photograph.

    Attributes:
      first: The place of one: its data set and its example.
      second: The place of the other.
      correlation: Of the aligned thumbnails; 1 for the same bytes.
      turned: Whether one is flipped or turned against the other.
      finding: What it means.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    correlation: float
    turned: bool
    finding: Finding


def find_duplicates(
    audited: Sequence[AuditedSource], update: Callable[[int], None]
) -> list[Duplicate]:
    """Finds the pictures that come twice, within a data set and between them.

    The same file, or the same photograph re-encoded, resized, flipped or turned
    (`near_duplicates`).

    Args:
      audited: The data sets.
      update: Is told how many more pictures were compared with all others.
    """
    places = [(s, int(e)) for s, one in enumerate(audited) for e in one.decoded]
    if not places:
        return []
    duplicates = []
    same_bytes: dict[bytes, int] = {}
    is_copy = np.zeros(len(places), bool)
    for index, (s, e) in enumerate(places):
        first = same_bytes.setdefault(audited[s].inspected[e].digest, index)
        if first != index:
            is_copy[index] = True
            duplicates.append(
                _duplicate(audited, places[first], places[index], 1.0, False, "identical files")
            )
    # Copies of the same bytes were told already, and would come again with each near-duplicate.
    kept = np.flatnonzero(~is_copy)
    update(int(is_copy.sum()))
    thumbnails, hashes = (
        np.concatenate([getattr(one, name) for one in audited])[kept]
        if is_copy.any() or len(audited) > 1
        else getattr(audited[0], name)
        for name in ("thumbnails", "hashes")
    )
    for pair in find_pairs(thumbnails, hashes, update):
        first, second = (places[kept[index]] for index in (pair.first, pair.second))
        turned = pair.orientation != 0
        duplicates.append(
            _duplicate(audited, first, second, pair.correlation, turned, "near-duplicates")
        )
    return duplicates


def _duplicate(
    audited: Sequence[AuditedSource],
    first: tuple[int, int],
    second: tuple[int, int],
    correlation: float,
    turned: bool,
    kind: str,
) -> Duplicate:
    """What it means that two pictures are the same, told by where they stand."""
    ours, theirs = (audited[s].examples[e] for s, e in (first, second))
    labels = ours.label, theirs.label
    if first[0] != second[0]:
        where, stops = "in two data sets", True
    elif ours.part != theirs.part:
        where, stops = "in two parts", True
    elif None not in labels and labels[0] != labels[1]:
        where, stops = "of two diagnoses", True
    elif ours.lesion_id is not None and ours.lesion_id == theirs.lesion_id:
        where, stops = "of one lesion", False
    else:
        where, stops = "of two lesions", False
    detail = f"{theirs.image_name}, correlation {correlation:.3f}"
    detail += ", flipped or turned" if turned else ""
    finding = Finding(ours.image_name, f"{kind} {where}", detail, stops)
    return Duplicate(first, second, correlation, turned, finding)


def random_split_leak(examples: Sequence[Example], seed: int = 0) -> dict[str, float]:
    """What a random split of the images would leak: test images whose lesion is in training too.

    Args:
      examples: With lesion ids; an example without one is a lesion of its own.
      seed: Of the draws.

    Returns:
      The share, 0 to 1, of all test images, under '', and by class; the mean of 50 draws of 80/20.
    """
    ids = [example.lesion_id or f" {index}" for index, example in enumerate(examples)]
    _, lesions = np.unique(ids, return_inverse=True)
    labels = np.array([example.label or "" for example in examples])
    rng = np.random.default_rng(seed)
    num_test = round(TEST_SHARE * len(examples))
    leaked, tested = collections.Counter[str](), collections.Counter[str]()
    for _ in range(NUM_DRAWS):
        order = rng.permutation(len(examples))
        test, train = order[:num_test], order[num_test:]
        is_trained = np.zeros(lesions.max() + 1, bool)
        is_trained[lesions[train]] = True
        leaks = is_trained[lesions[test]]
        for name in np.unique(labels):
            tested[str(name)] += int(np.sum(labels[test] == name))
            leaked[str(name)] += int(np.sum(leaks[labels[test] == name]))
    shares = {name: leaked[name] / count for name, count in tested.items() if name and count}
    return {"": sum(leaked.values()) / max(sum(tested.values()), 1)} | shares


def facts(audited: AuditedSource) -> dict[str, Any]:
    """What is in a data set, as numbers: for audit.json and the page.

    Returns:
      'dataset', 'source', 'num_images'; 'num_lesions', 'num_lesions_with_several_images' and
      'num_images_of_these' (None without lesion ids); 'classes', 'parts', 'sizes' (width x height)
      and 'modes' (format and colour mode), counts by name; 'num_masks'; 'majority_class' and
      'majority_accuracy'; 'background_accuracy', the mean share of background over the masks;
      'random_split_leak' and 'random_split_leak/CLASS', shares of test images.
    """
    examples, seen = audited.examples, audited.inspected
    count = len(examples)
    lesions = collections.Counter(e.lesion_id for e in examples if e.lesion_id)
    several = [number for number in lesions.values() if number > 1]
    classes = collections.Counter(e.label for e in examples if e.label)
    fractions = [one.lesion_fraction for one in seen if one.lesion_fraction is not None]
    majority = max(classes, key=lambda name: (classes[name], name)) if classes else None
    result: dict[str, Any] = {
        "dataset": audited.source.name,
        "source": audited.root,
        "num_images": count,
        "num_masks": sum(e.mask_name is not None for e in examples),
        "num_lesions": len(lesions) if lesions else None,
        "num_lesions_with_several_images": len(several) if lesions else None,
        "num_images_of_these": sum(several) if lesions else None,
        "classes": dict(sorted(classes.items())),
        "parts": dict(sorted(collections.Counter(e.part for e in examples if e.part).items())),
        "sizes": _counted(f"{s.size[1]} x {s.size[0]}" for s in seen if s.size),
        "modes": _counted(f"{s.format} {s.mode}" for s in seen if s.format),
        "majority_class": majority,
        "majority_accuracy": classes[majority] / classes.total() if majority else None,
        "background_accuracy": 1 - float(np.mean(fractions)) if fractions else None,
        "notes": list(audited.source.notes),
    }
    if lesions:
        for name, share in random_split_leak(examples).items():
            result["random_split_leak" + (f"/{name}" if name else "")] = share
    return result


def _counted(names: Iterator[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return dict(collections.Counter(names).most_common())
