"""Records of a benchmark that never ran."""

from bench.schema import Machine


def machine():
    return Machine(
        date="2026-01-02",
        commit="abc",
        device="CPU",
        cores=2,
        memory_gb=4.0,
        instructions="avx2",
        system="Linux",
        load=0.1,
        versions={"torch": "2.10"},
    )
