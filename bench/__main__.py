"""`python -m bench`: see bench/__init__.py. A command is imported only when it is called for; sass needs no torch."""

from __future__ import annotations

import importlib
import sys

from fastreg.utils.files import InputError

COMMANDS = {
    "report": "bench.report",
    "report-page": "bench.report_page",
    "registration": "bench.registration.run",
    "trials": "bench.registration.trials",
    "gpu": "bench.cuda.run",
    "sass": "bench.cuda.sass",
    "masks": "bench.masks",
    "interpolation": "bench.interpolation",
    "activations": "bench.activations",
    "motion": "bench.motion",
    "dropin": "bench.dropin",
    "dropin-tests": "bench.dropin_tests",
}
"""Name -> the module whose `main` takes the words after it; all else are parts of the suite."""


def main(words: list[str]) -> int:
    """The exit code: 1 if a gradient failed or an input is at fault, 2 for usage."""
    if words and words[0] in COMMANDS:
        module, words = COMMANDS[words[0]], words[1:]
    else:
        module = "bench.suite"
    try:
        return importlib.import_module(module).main(words) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
