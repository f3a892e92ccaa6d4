"""folder:DIR: pictures, recordings or videos in a folder and its subfolders: the kind of which there are most."""

import os

from keras_vae import audio, video
from keras_vae.errors import Refusal
from keras_vae.pictures import SUFFIXES
from keras_vae.records import Found
from keras_vae.sources import clips, files, recordings, stills

KINDS = {stills: SUFFIXES, recordings: audio.SUFFIXES, clips: video.SUFFIXES}

LOOKED_AT = 10  # GIFs: if most of them move, they are clips


def find(name: str, options, log) -> Found:
    root = os.fsencode(os.path.expanduser(name))
    if not os.path.isdir(root):
        why = "it is a file" if os.path.exists(root) else "there is no such folder"
        raise Refusal("data", "cannot read the folder", where=name, why=why, fix="--data.source folder:DIR")
    names = files.names_below(root)
    found = {kind: files.chosen(names, suffixes) for kind, suffixes in KINDS.items()}
    gifs = files.chosen(found[stills], (".gif",))
    some = gifs[:: max(1, len(gifs) // LOOKED_AT)] if gifs == found[stills] else []
    if 2 * sum(video.moves(os.path.join(root, name)) for name in some) > len(some):
        found = {**found, stills: [], clips: sorted(found[clips] + gifs)}
    asked = {recordings: options.rate or options.seconds, clips: options.frames or options.fps}
    kind = max(KINDS, key=lambda kind: (bool(found[kind] and asked.get(kind)), len(found[kind])))
    if not found[kind]:
        why = f"{len(names):,} other files are there" if names else "it is empty"
        fix = f"pictures end in {', '.join(SUFFIXES)}, recordings in {', '.join(audio.SUFFIXES)}, videos in {', '.join(video.SUFFIXES)}"
        raise Refusal("data", "the folder has no pictures, recordings or videos", where=name, why=why, fix=fix)
    return kind.find(root, found[kind], len(names) - len(found[kind]), name, options)


def is_files(path) -> bool:
    """Whether a path is a folder or, by its name, a picture, a recording or a video."""
    return os.path.isdir(path) or str(path).lower().endswith(tuple(suffix for suffixes in KINDS.values() for suffix in suffixes))
