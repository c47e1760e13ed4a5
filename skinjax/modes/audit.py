"""An audit: what data sets hold, what is broken in them, and what would leak into a test."""

import collections
import contextlib
import csv
import datetime
import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from skinjax.data.archives import cache_folder
from skinjax.data.audit import (
    AuditedSource,
    Duplicate,
    audit_source,
    facts,
    find_duplicates,
)
from skinjax.data.catalog import create_source, detect_sources
from skinjax.data.findings import Finding
from skinjax.data.images import BrokenPicture, decode_image
from skinjax.data.near_duplicates import MIN_CORRELATION
from skinjax.data.sources.example import Example, Source
from skinjax.errors import UserError
from skinjax.modes.config import segmentation_config
from skinjax.modes.workdir import make_folder, write_text
from skinjax.process import num_cores
from skinjax.progress import progress
from skinjax.report.audit_page import AuditPage, FindingGroup, render_audit

_MAX_PICTURES = 12  # of each kind on the page
_MAX_LISTED = 5  # files of a finding that the page names
# Findings whose pictures the page shows.
_WORTH_A_LOOK = ("mask is all background", "mask is all lesion", "mask has another aspect ratio")


def audit(sources: Sequence[str], output: Path, dataset: str = "") -> bool:
    """Reads every file of some data sets and writes audit.json, audit.csv and audit.html.

    Args:
        sources: folders or zips of data sets.
        output: the folder to write to; made where it is missing.
        dataset: the name of what lies in them; empty to tell it by what is found.

    Returns:
        Whether nothing was found that stops a training.

    Raises:
        UserError: where a data set cannot be read at all.
    """
    if not sources:
        raise UserError("--source is missing: name the folder or zip of a data set.")
    defaults = segmentation_config().data
    num_threads = num_cores()
    cache_dir = cache_folder(defaults.cache_dir)
    opened = [(root, source) for root in sources for source in _open(root, cache_dir, dataset)]
    # Before the long reading, after what may be wrong with the sources.
    make_folder("output", output)
    audited: list[AuditedSource] = []
    for root, source in opened:
        examples = source.examples()
        with progress(f"reading {source.name}", len(examples)) as update:
            audited.append(
                audit_source(source, examples, root, num_threads, defaults.max_pixels, update)
            )
    num_images = sum(len(one.examples) for one in audited)
    with progress("comparing all pictures", num_images) as update:
        duplicates = find_duplicates(audited, update)
    findings = [finding for one in audited for finding in one.findings]
    findings += [duplicate.finding for duplicate in duplicates]
    # What stops a training first, then by kind, each kind in the order of the files.
    findings.sort(key=lambda finding: (not finding.stops, finding.finding))

    all_facts = [facts(one) for one in audited]
    groups = _group(findings, sources)
    num_stops = sum(finding.stops for finding in findings)
    summary = {
        "datasets": all_facts,
        "findings": {group.name: group.count for group in groups},
        "num_findings": len(findings),
        "num_findings_that_stop_a_training": num_stops,
    }
    write_text(output / "audit.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_text(output / "audit.csv", _csv(findings))
    page = AuditPage(
        facts=all_facts,
        lesion_fractions=[
            [seen.lesion_fraction for seen in one.inspected if seen.lesion_fraction is not None]
            for one in audited
        ],
        groups=groups,
        threshold=MIN_CORRELATION,
        date=datetime.date.today().isoformat(),
        pairs=list(_pairs(audited, duplicates)),
        pictures=list(_pictures(audited)),
    )
    write_text(output / "audit.html", render_audit(page))
    for fact in all_facts:
        print(_describe(fact))
    for group in groups:
        print(f"  {group.count:>6,}  {group.name}" + ("  (stops a training)" * group.stops))
    verdict = f"{num_stops:,} findings stop a training" if num_stops else "nothing stops a training"
    print(f"{verdict}; the page: {output / 'audit.html'}")
    return not num_stops


def _open(root: str, cache_dir: Path, dataset: str) -> list[Source]:
    """What lies in a folder or zip, opened so that nothing missing is refused."""
    if dataset:
        return [create_source(dataset, root, cache_dir, masks=False, strict=False)]
    return detect_sources(root, cache_dir)


def _group(findings: list[Finding], sources: Sequence[str]) -> list[FindingGroup]:
    """The findings by kind, in the order in which they stand; paths from their source on."""

    def short(text: str) -> str:
        for root in sources:
            text = text.replace(f"{Path(root).expanduser()}{os.sep}", "")
        return text

    return [
        FindingGroup(
            name=name,
            count=len(members),
            stops=stops,
            first=[(short(f.file), short(f.detail)) for f in members[:_MAX_LISTED]],
        )
        for (stops, name), same in itertools.groupby(findings, lambda f: (f.stops, f.finding))
        for members in [list(same)]
    ]


def _csv(findings: list[Finding]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "finding", "detail"])
    writer.writerows([f.file, f.finding, f.detail] for f in findings)
    return buffer.getvalue()


def _describe(fact: dict) -> str:
    """One line about a data set."""
    line = f"{fact['dataset']} in {fact['source']}: {fact['num_images']:,} images"
    line += f", {fact['num_masks']:,} masks"
    if fact["num_lesions"]:
        line += (
            f", {fact['num_lesions']:,} lesions, {fact['num_lesions_with_several_images']:,} of "
            f"them with {fact['num_images_of_these']:,} images; a random split of the images would "
            f"leak {fact['random_split_leak']:.1%}"
        )
    return line


def _pairs(
    audited: Sequence[AuditedSource], duplicates: Sequence[Duplicate]
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """The pictures that come twice, those that stop a training first."""
    ordered = sorted(duplicates, key=lambda d: (not d.finding.stops, d.finding.finding))
    # A few of each kind, not the first kind alone.
    chosen = [
        duplicate
        for _, same in itertools.groupby(ordered, lambda d: d.finding.finding)
        for duplicate in itertools.islice(same, _MAX_PICTURES)
    ]
    for duplicate in chosen:
        examples = [audited[s].examples[e] for s, e in (duplicate.first, duplicate.second)]
        with contextlib.suppress(OSError, BrokenPicture):  # changed since it was read
            first, second = (_read(example) for example in examples)
            names = " and ".join(_name(example) for example in examples)
            turned = ", flipped or turned" if duplicate.turned else ""
            what = f"{duplicate.finding.finding}, {duplicate.correlation:.3f}{turned}"
            yield first, second, f"{names}: {what}"


def _pictures(audited: Sequence[AuditedSource]) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures whose masks look odd."""
    shown: collections.Counter[str] = collections.Counter()
    for one in audited:
        for example, seen in zip(one.examples, one.inspected, strict=True):
            for finding in seen.findings:
                kind = finding.finding
                if kind in _WORTH_A_LOOK and seen.size and shown[kind] < _MAX_PICTURES:
                    shown[kind] += 1
                    with contextlib.suppress(OSError, BrokenPicture):  # changed since it was read
                        yield _read(example), f"{_name(example)}: {kind}"


def _read(example: Example) -> np.ndarray:
    return decode_image(example.load()[0], example.image_name)


def _name(example: Example) -> str:
    label = f" ({example.label})" if example.label else ""
    return f"{example.image_id}{label}"
