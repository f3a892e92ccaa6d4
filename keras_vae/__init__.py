"""keras_vae: variational autoencoders, trained fast and stably, checked and served, in TensorFlow and Keras 3."""

import sys

from keras_vae import environment

__version__ = "0.1.0"
__all__ = ["VAE", "HierarchicalVAE"]


def __getattr__(name: str):
    # Importing TensorFlow takes seconds: `--help` and `--list` must not wait for it.
    if name in __all__:
        environment.prepare()
        from keras_vae import hierarchical

        return getattr(hierarchical, name)
    raise AttributeError(f"module 'keras_vae' has no attribute {name!r}")


if sys.modules.get("keras"):
    environment.prepare()
    # Who has Keras loaded already may go on to load a model: Keras must know the classes.
    from keras_vae.hierarchical import VAE, HierarchicalVAE
