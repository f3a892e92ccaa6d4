"""python train.py [PRESET ...] [options]: train, check, draw and export a variational autoencoder."""

from keras_vae import command


def program(arguments):
    chosen = command.parse(arguments)
    if command.show(chosen):
        return
    command.load_tensorflow(chosen.devices.strategy)
    from keras_vae.console import Console
    from keras_vae.training import dry_run, train

    if chosen.dry_run:
        dry_run(command.plain(chosen), Console())
    else:
        train(command.plain(chosen), Console(), overwrite=chosen.overwrite, steal_lock=chosen.steal_lock)


if __name__ == "__main__":
    command.main(program)
