"""One contestant in a process of its own: reads a line of JSON for each turn, answers with a line.

    python worker.py MODULE VARIANT TASK.npz

{"train": records} -> {"seconds", "loss", "wait"}; {"weights": FILE} writes the weights; the first turn compiles.
"""

import importlib
import json
import os
import sys
import time

import numpy as np
from workloads import Workload


def main() -> None:
    module, variant, task = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong among the answers
    with np.load(task) as file:
        content = dict(file)
    work = json.loads(str(content.pop("work")))
    work = Workload(**{key: tuple(value) if isinstance(value, list) else value for key, value in work.items()})
    records = content.pop("records")
    contestant = importlib.import_module(f"contestants.{module}").Contestant(work, variant, records, content)
    print(json.dumps({"ready": contestant.describe()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "train" in asked:
            started = time.perf_counter()
            loss = float(contestant.train(asked["train"]))
            answer = {"seconds": time.perf_counter() - started, "loss": loss}
        else:
            np.savez(asked["weights"], **contestant.weights())
            answer = {}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
