"""python tune.py [PRESET ...] [options]: search for better settings, and train the best."""

import sys

from keras_vae import command


def program(arguments):
    chosen = command.parse(arguments, command.TuneCommand)
    if command.show(chosen):
        return
    command.load_tensorflow(chosen.devices.strategy)
    from keras_vae.console import Console
    from keras_vae.searching import tune

    tune(chosen, arguments, [sys.executable, *sys.argv], Console())


if __name__ == "__main__":
    command.main(program)
