"""``python -m benchmarks``: the command line. A missed goal is a result, not an error; a figure that could not be measured is one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from basalt import output
from basalt.commandline import report_error
from basalt.errors import BasaltError, ExitCode
from benchmarks import boot, containers, image, kernel, native, rebuild, running, start
from benchmarks.bench import Bench
from benchmarks.figures import Figure, machine_kind, table

Measure = Callable[[Bench], Iterator[Figure]]

MEASUREMENTS: dict[str, Measure] = {
    "image": image.measure,
    "rebuild": rebuild.measure,
    "kernel": kernel.measure,
    "start": start.measure,
    "boot": boot.measure,
    "node": running.measure,
    "containers": containers.measure,
    "native": native.measure,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=MEASUREMENTS,
        metavar="NAME",
        help=f"measure these alone: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how often times are taken (default 3)")
    parser.add_argument(
        "-o", dest="form", choices=("table", "json", "yaml"), default="table", help="form of the answer"
    )
    return parser


def _note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def take(name: str, measure: Measure, bench: Bench, figures: list[Figure]) -> bool:
    """Append what one measurement gives to *figures*; False when it failed, and then a last figure says why there are no more."""
    try:
        for figure in measure(bench):
            figures.append(figure)
    except BasaltError as error:
        report_error("benchmarks", error)
        figures.append(Figure(name, None, "", str(error).partition("\n")[0]))
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    arguments = _parser().parse_args(argv)
    bench = Bench(max(1, arguments.repeat), _note)
    chosen = arguments.only or list(MEASUREMENTS)
    load = os.getloadavg()[0]
    figures: list[Figure] = []
    broken = False
    try:
        with bench.alone():
            for name, measure in MEASUREMENTS.items():
                if name in chosen:
                    _note(f"{name} ...")
                    broken |= not take(name, measure, bench, figures)
    except BasaltError as error:
        report_error("benchmarks", error)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    kind = machine_kind(os.cpu_count() or 1, bench.accelerator)
    machine = f"{kind}; load average {load:.1f} when it began, {os.getloadavg()[0]:.1f} when it ended"
    answer = {"machine": machine, "figures": [figure.as_dict() for figure in figures]}
    output.answer(arguments.form, answer, f"{table(figures)}\n\n{machine}")
    return ExitCode.FAILED if broken else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
