"""The benchmarks: python -m benchmarks NAME [--peer] [--json FILE] [--tiny] [--kills N]."""

import argparse
import importlib
from pathlib import Path

from skinjax.process import set_up_jax, use_huge_pages

NAMES = {
    "train_step": "an update of each model, beside PyTorch's",
    "predict_step": "predictions of each model, beside PyTorch's",
    "input": "records to batches and originals to records, beside a DataLoader",
    "end_to_end": "the share of an epoch that the input costs",
    "predict": "a folder from files to masks and tables, beside the model alone",
    "startup": "process start to first step, with and without compiled programs at hand",
    "export": "sizes and rates of exported models (for ONNX with .venv-onnx on PYTHONPATH)",
    "scale": "time and memory by batch, size, devices and number of images",
    "faults": "a training killed again and again, beside one left alone",
}


def main() -> None:
    """Runs what the command line names, prints a table, and writes JSON where asked."""
    listing = "\n".join(f"  {name:<14}{what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measures one thing:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME")
    parser.add_argument("--peer", action="store_true", help="PyTorch does the same work in turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--tiny", action="store_true", help="so small that it only shows it runs")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="TEXT",
        help="train_step, predict_step: only cases whose name has this in it; may come again",
    )
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="faults: how often it is killed (50)"
    )
    arguments = parser.parse_args()
    set_up_jax()

    from benchmarks.harness import Options, show, write_json

    options = Options(
        peer=arguments.peer,
        tiny=arguments.tiny,
        kills=arguments.kills,
        cases=tuple(arguments.case),
    )
    module = importlib.import_module(
        "benchmarks.steps" if arguments.name.endswith("_step") else f"benchmarks.{arguments.name}"
    )
    rows = getattr(module, f"measure_{arguments.name}")(options)
    show(arguments.name, rows)
    if arguments.json:
        write_json(arguments.json, arguments.name, rows, options)


if __name__ == "__main__":
    use_huge_pages()
    main()
