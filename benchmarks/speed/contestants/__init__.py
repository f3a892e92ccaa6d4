"""One module a framework. Each has `VARIANTS` and `Contestant(work, variant, records, weights)` with `train(records) -> mean loss` and
`weights() -> dict`; each runs in an environment of its own, started by worker.py."""
