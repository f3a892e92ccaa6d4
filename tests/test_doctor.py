"""Each check of the doctor says yes on this machine, and no where what it looks at is broken."""

import pytest
import tensorflow as tf

from keras_vae import __main__ as verbs
from keras_vae import distributions, doctor, loop, stability, storage
from keras_vae.errors import Refusal
from keras_vae.inference import Inference
from keras_vae.vae import VAE


@pytest.mark.parametrize("check", [check for check in doctor.CHECKS if check is not doctor.writing], ids=lambda check: check.__name__)
def test_it_says_yes_here(check):
    healthy, text = check()
    assert healthy, text


BROKEN = {
    "divergence": (distributions, "divergence", lambda q, p, z: tf.ones(1)),
    "gradient": (Inference, "rate", lambda self: tf.stop_gradient(self.latents[0].rate())),
    "agreement": (VAE, "gradients", lambda *_: ((), tf.constant(1.0), {}, ())),
    "clipping": (stability, "clip", lambda gradients, norm: (gradients, tf.constant(5.0))),
    "resuming": (loop.Trainer, "restore", lambda self, folder, log: True),
}


@pytest.mark.parametrize("name", BROKEN)
def test_it_says_no_where_something_is_broken(name, monkeypatch):
    monkeypatch.setattr(*BROKEN[name])
    assert not getattr(doctor, name)()[0]


def test_a_check_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def broken():
        """Broken."""
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor.clipping))
    with pytest.raises(Refusal, match="1 of 2 checks failed: Broken") as refused:
        verbs.doctor()
    assert refused.value.exit_code == 6
    shown = capsys.readouterr().out
    assert "OSError: no such device" in shown and "a norm of 5 becomes 1" in shown


def test_writing_leaves_nothing_behind_and_says_where_it_cannot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "WRITTEN", 2**16)
    assert "MiB/s" in doctor.writing()[1]
    assert not list(tmp_path.glob("saved_models/.*"))

    def full(path, content):
        raise Refusal("environment", "no space left")

    monkeypatch.setattr(storage, "write", full)
    (found,) = [row for row in doctor.examine(lambda *_: None) if row[0].startswith("Writing")]
    assert not found[1] and "no space left" in found[2]
