"""A process that has imported TensorFlow, without starting its runtime, and forks a child per line of stdin: `train.py` with the
arguments in the line, in the folder of its own. Answers "pid" when it is forked, then its exit status. The export is left out."""

import json
import os
import sys

import matplotlib.figure
import sklearn.datasets
import sklearn.decomposition

from keras_vae import command, serving, training


def program(arguments) -> None:
    """What train.py does."""
    from keras_vae.console import Console

    training.train(command.plain(command.parse(arguments)), Console())


def child(order: dict) -> None:
    os.chdir(order["place"])
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    serving.export = lambda *arguments: 0.0
    code = 0
    try:
        command.main(program, order["arguments"])
    except SystemExit as left:
        code = left.code
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    print("ready", matplotlib.__name__, sklearn.__name__, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
