"""keras_vae: variational autoencoders, trained fast and stably, checked and served, in TensorFlow and Keras 3."""

import sys

from keras_vae import environment

__version__ = "0.1.0"
__all__ = ["VAE"]


def __getattr__(name: str):
    # Importing TensorFlow takes seconds: `--help` and `--list` must not wait for it.
    if name == "VAE":
        environment.prepare()
        from keras_vae.vae import VAE

        return VAE
    raise AttributeError(f"module 'keras_vae' has no attribute {name!r}")


if sys.modules.get("keras"):
    environment.prepare()
    from keras_vae.vae import VAE  # who has Keras loaded already may go on to load a model: Keras must know the class
