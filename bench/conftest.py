"""`pytest bench --benchmark-only`: exactness first, then the speed of what passed it, and the tables of both."""

import os
import warnings

import pytest
import torch

from bench import exactness, tables
from bench.machine import machine
from bench.schema import Record

RECORD = Record(machine=machine())


@pytest.fixture(scope="session")
def exact():
    """Op -> the rows of fastreg and its peers, computed once."""
    found = {}

    def rows(op):
        if op not in found:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                threads = torch.get_num_threads()
                torch.set_num_threads(1)
                found[op] = [*exactness.fastregs(op), *exactness.of_peers(op)]
                torch.set_num_threads(threads)
            RECORD.rows += found[op]
        return found[op]

    return rows


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if config.option.benchmark_only:  # the project's own options switch timing off, for the tests
        config.option.benchmark_disable = False
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", os.cpu_count() or 1)))


def pytest_terminal_summary(terminalreporter):
    if RECORD.rows:
        write = terminalreporter.write_line
        write("")
        write(tables.summary_table(RECORD, ""))
        write("")
        write(tables.peers_table(RECORD, ""))
