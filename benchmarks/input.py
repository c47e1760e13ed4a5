"""input: from originals to records, and from records to batches, images a second and core."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Options, measure_in_turn, summarise
from skinjax.data.pipeline import Examples, train_batches
from skinjax.data.records import Prepared, prepare
from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.phantom import render
from skinjax.engine import parallel
from skinjax.process import num_cores

IMAGE_SIZE = (192, 256)
BATCH = 32


class Originals:
    """Phantoms as JPEG and PNG files of a size: a few are drawn, and shifted to make many."""

    name, classes = "originals", CLASSES
    has_lesion_ids, lesion_ids_mend = True, None

    def __init__(self, folder: Path, height: int, width: int, count: int):
        from PIL import Image

        self.notes: list[str] = []
        self.missing: list[tuple[str, str]] = []
        self._key = f"{height} {width} {count}"
        self.files: list[tuple[Path, Path]] = []
        drawn = [render(0, index, height, width)[:2] for index in range(min(count, 8))]
        rng = np.random.default_rng(0)
        for index in range(count):
            paths = folder / f"{index}.jpg", folder / f"{index}.png"
            shift = rng.integers(0, (height, width))
            image, mask = (np.roll(array, shift, (0, 1)) for array in drawn[index % len(drawn)])
            Image.fromarray(image).save(paths[0], "JPEG", quality=92)
            Image.fromarray(mask * np.uint8(255)).save(paths[1], "PNG", compress_level=1)
            self.files.append(paths)

    def fingerprint(self) -> str:
        return self._key

    def examples(self) -> list[Example]:
        return [
            Example(
                f"image_{index}",
                lambda image=image, mask=mask: (image.read_bytes(), mask.read_bytes()),
                image.name,
                mask.name,
                lesion_id=f"lesion_{index}",
                label=CLASSES[index % 7],
            )
            for index, (image, mask) in enumerate(self.files)
        ]


def measure_input(options: Options) -> list[dict[str, Any]]:
    """Both ways of the input, each beside its peer; the decoded cache is off."""
    rows = []
    cores = num_cores()
    sizes = [(60, 80)] if options.tiny else [(450, 600), (1024, 1536)]
    for height, width in sizes:
        count = 8 if options.tiny else 400 if height < 1000 else 80
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = Originals(folder, height, width, count)
            sides = {"ours": _prepare_anew(source, folder)}
            if options.peer:
                sides["peer"] = _opencv_prepare(source, folder)
            row = {"case": f"originals {width}x{height} to records", "cores": cores}
            rows.append(row | _per_core(summarise(measure_in_turn(sides, options), count), cores))
            if (height, width) == sizes[0]:
                prepared = prepare(source, folder / "kept", 256)
                rows.append(_measure_batches(prepared, options, cores))
    return rows


def _per_core(figures: dict[str, float], cores: int) -> dict[str, float]:
    names = [name for name in ("ours", "peer") if name in figures]
    return figures | {f"{name} a core": figures[name] / cores for name in names}


def _prepare_anew(source: Originals, folder: Path) -> Callable[[], None]:
    calls = iter(range(10**9))

    def call() -> None:
        prepare(source, folder / f"cache{next(calls)}", 256)

    return call


def _opencv_prepare(source: Originals, folder: Path) -> Callable[[], None]:
    """The peer: OpenCV in threads, a smaller JPEG and the mask written as files."""
    from concurrent.futures import ThreadPoolExecutor

    import cv2

    cv2.setNumThreads(0)
    target = folder / "opencv"
    target.mkdir()

    def one(paths: tuple[Path, Path]) -> None:
        image = cv2.imread(str(paths[0]))
        mask = cv2.imread(str(paths[1]), cv2.IMREAD_GRAYSCALE)
        scale = min(1.0, 256 / min(image.shape[:2]))
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(target / paths[0].name), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        (target / paths[1].name).write_bytes(paths[1].read_bytes())
        assert set(np.unique(mask)) <= {0, 255}

    def call() -> None:
        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(one, source.files))

    return call


def _measure_batches(prepared: Prepared, options: Options, cores: int) -> dict[str, Any]:
    batch = 4 if options.tiny else BATCH
    num_batches = 2 if options.tiny else 20
    mesh = parallel.create_mesh(parallel.dividing_devices(batch))
    positions = list(range(len(prepared)))
    examples = Examples(prepared, positions, IMAGE_SIZE, "squash", with_masks=True, cache=False)

    def call() -> None:
        # Begun anew, so that nothing is decoded ahead in the other side's turn.
        ours = train_batches(examples, batch, seed=0, start=0, num_threads=cores)
        for _ in range(num_batches):
            jax.block_until_ready(parallel.put_batch(next(ours), mesh))

    sides = {"ours": call}
    if options.peer:
        sides["peer"] = _dataloader(prepared, batch, num_batches, cores)
    figures = summarise(measure_in_turn(sides, options), batch * num_batches)
    case = f"records to batches of {IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"
    return {"case": case, "cores": cores} | _per_core(figures, cores)


def _dataloader(prepared: Prepared, batch: int, num_batches: int, cores: int) -> Callable[[], None]:
    """The peer: a DataLoader with a worker a core, which decodes the same bytes with OpenCV."""
    import torch

    loader = iter(
        torch.utils.data.DataLoader(
            _Files(prepared),
            batch_size=batch,
            sampler=_Endless(len(prepared)),
            num_workers=cores,
            prefetch_factor=4,
            persistent_workers=True,
        )
    )

    def call() -> None:
        for _ in range(num_batches):
            next(loader)

    return call


class _Endless:
    """Indices at random without end."""

    def __init__(self, count: int):
        self._count = count

    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            yield from rng.permutation(self._count).tolist()


class _Files:
    """The records' bytes as a map-style data set of tensors, decoded and resized by OpenCV."""

    def __init__(self, prepared: Prepared):
        # In memory: the peer's disk format is not what is compared.
        self._bytes = [prepared.read(position) for position in range(len(prepared))]

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: int):
        import cv2
        import torch

        cv2.setNumThreads(0)
        height, width = IMAGE_SIZE
        image, mask = (np.frombuffer(data, np.uint8) for data in self._bytes[index])
        image = cv2.cvtColor(cv2.imdecode(image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        mask = cv2.imdecode(mask, cv2.IMREAD_GRAYSCALE)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) >= 128
        return torch.from_numpy(image), torch.from_numpy(mask[..., None].astype(np.uint8))
