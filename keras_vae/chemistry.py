"""Molecules: SMILES as SELFIES and back, what generated ones are worth, and pictures of them. RDKit and selfies are the extra `chem`."""

import contextlib
import io
import types
from collections import Counter

import numpy as np

from keras_vae.errors import Refusal

DESCRIPTORS = (
    "MolWt", "MolLogP", "TPSA", "NumHDonors", "NumHAcceptors", "RingCount", "NumAromaticRings", "NumRotatableBonds", "HeavyAtomCount",
    "FractionCSP3", "NumHeteroatoms", "BertzCT",
)  # fmt: skip
BITS, RADIUS = 2048, 2  # of Morgan fingerprints


def library() -> types.SimpleNamespace:
    """The modules of the extra by their names. `Refusal` (environment) where it is not installed."""
    try:
        import selfies
        from rdkit import Chem, RDConfig, RDLogger
        from rdkit.Chem import BRICS, QED, Crippen, Descriptors, rdFingerprintGenerator
        from rdkit.Chem.Scaffolds import MurckoScaffold
        from rdkit.Contrib.SA_Score import sascorer
    except ImportError as error:
        what = "selfies" if "selfies" in str(error) else "rdkit"
        raise Refusal("environment", f"molecules need {what}", why=str(error)[:200], fix="pip install -e '.[chem]'") from None
    RDLogger.DisableLog("rdApp.*")  # what is no molecule is counted, not shouted
    return types.SimpleNamespace(
        selfies=selfies,
        Chem=Chem,
        RDConfig=RDConfig,
        BRICS=BRICS,
        QED=QED,
        Crippen=Crippen,
        Descriptors=Descriptors,
        rdFingerprintGenerator=rdFingerprintGenerator,
        MurckoScaffold=MurckoScaffold,
        sascorer=sascorer,
    )


def selfies(smiles: str) -> str | None:
    """SMILES as SELFIES (Self-Referencing Embedded Strings; Krenn et al. 2020); None of what cannot be written so."""
    encoding = library().selfies
    with contextlib.suppress(encoding.EncoderError):
        return encoding.encoder(smiles)
    return None


def smiles(selfies: str) -> str:
    """SELFIES as SMILES: of nearly any tokens a molecule."""
    return library().selfies.decoder(selfies)


def molecule(text: str):
    """RDKit's molecule of SMILES; None of what is none, or of nothing."""
    return (library().Chem.MolFromSmiles(text) or None) if text else None


def canonical(text: str) -> str | None:
    """The one SMILES of the molecule."""
    found = molecule(text)
    return None if found is None else library().Chem.MolToSmiles(found)


def figures(made: list[str], known: list[str], train: list[str]) -> dict[str, float]:
    """What generated SMILES are worth, beside those of held-out molecules (Molecular Sets; Polykovskiy et al. 2020).

    `validity`: the share that are molecules; `uniqueness`: the share of these that differ; `novelty`: the share of those that are not among
    `train`. Of the valid ones and of the `known`: the means of `qed`, `logp` and `sa` (synthetic accessibility, 1 to 10), and `diversity`,
    1 - the mean Tanimoto similarity of two Morgan fingerprints. Between both: `scaffolds` and `fragments`, the cosine of how often each is
    there (Murcko, of two rings and more; BRICS), and `frechet`, the Frechet distance of Gaussians over twelve standardized descriptors.
    What cannot be said of so few is left out.
    """
    valid = [text for text in map(canonical, made) if text]
    unique = set(valid)
    found = {"validity": len(valid) / len(made), "uniqueness": len(unique) / max(1, len(valid))}
    if not valid:
        return found
    found["novelty"] = len(unique - {canonical(text) for text in train}) / len(unique)
    mine, theirs = ([one for one in map(molecule, texts) if one is not None] for texts in (valid, known))
    for prefix, molecules in (("", mine), ("known_", theirs)):
        if molecules:
            found |= {f"{prefix}{key}": float(np.mean(list(map(of, molecules)))) for key, of in PROPERTIES.items()}
        if len(molecules) > 1:
            found[f"{prefix}diversity"] = diversity(molecules)
    if theirs:
        found["scaffolds"], found["fragments"] = (cosine(*(Counter(of(each)) for each in (mine, theirs))) for of in (scaffolds, fragments))
    if min(len(mine), len(theirs)) > 1:
        found["frechet"] = frechet(*(descriptors(each) for each in (mine, theirs)))
    return found


def qed(one) -> float:
    """Quantitative Estimate of Drug-likeness (Quantifying the Chemical Beauty of Drugs; Bickerton et al. 2012)."""
    return library().QED.qed(one)


def logp(one) -> float:
    """Of octanol and water (Prediction of Physicochemical Parameters by Atomic Contributions; Wildman and Crippen 1999)."""
    return library().Crippen.MolLogP(one)


def accessibility(one) -> float:
    """Estimation of Synthetic Accessibility Score of Drug-like Molecules (Ertl and Schuffenhauer 2009)."""
    return library().sascorer.calculateScore(one)


PROPERTIES = {"qed": qed, "logp": logp, "sa": accessibility}


def fingerprints(molecules) -> np.ndarray:
    """Morgan fingerprints, float32 [N, BITS] (Extended-Connectivity Fingerprints; Rogers and Hahn 2010)."""
    made = library().rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return np.array([made.GetFingerprintAsNumPy(one) for one in molecules], "float32")


def diversity(molecules) -> float:
    """1 - the mean Tanimoto similarity of two."""
    bits = fingerprints(molecules)
    both, size = bits @ bits.T, bits.sum(axis=1)
    similar = both / np.maximum(size[:, None] + size[None] - both, 1.0)
    others = ~np.eye(len(bits), dtype=bool)
    return 1.0 - float(similar[others].mean()) if len(bits) > 1 else 0.0


def scaffolds(molecules) -> list[str]:
    """Of each molecule of two rings and more these and what joins them (Bemis and Murcko 1996)."""
    murcko = library().MurckoScaffold
    return [murcko.MurckoScaffoldSmiles(mol=one) for one in molecules if one.GetRingInfo().NumRings() > 1]


def fragments(molecules) -> list[str]:
    """What the molecules fall into (On the Art of Compiling and Using 'Drug-Like' Chemical Fragment Spaces; Degen et al. 2008)."""
    chem, brics = library().Chem, library().BRICS
    return [part for one in molecules for part in chem.MolToSmiles(brics.BreakBRICSBonds(one)).split(".")]


def cosine(a: Counter, b: Counter) -> float:
    """Of two vectors of counts."""
    length = np.sqrt(float(sum(count**2 for count in a.values())) * sum(count**2 for count in b.values()))
    return float(sum(count * b[key] for key, count in a.items()) / length) if length else 0.0


def descriptors(molecules) -> np.ndarray:
    """[N, 12]."""
    functions = [getattr(library().Descriptors, name) for name in DESCRIPTORS]
    return np.array([[function(one) for function in functions] for one in molecules], "float64")


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of Gaussians with these moments, in standard deviations of both together."""
    both = np.concatenate([b] * -(-len(a) // len(b)) + [a])
    scale = both.std(axis=0)
    scale = np.where(scale > 1e-6 * np.maximum(1.0, np.abs(both.mean(axis=0))), scale, 1.0)
    (m, s), (n, t) = ((each.mean(axis=0), np.atleast_2d(np.cov(each.T))) for each in (a / scale, b / scale))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(s @ t).real, 0.0)).sum()
    return float(np.square(m - n).sum() + np.trace(s) + np.trace(t) - 2.0 * roots)


def picture(texts: list[str], columns: int = 8, side: int = 180) -> bytes:
    """A PNG of the molecules, row by row; what is none is an empty field."""
    chem = library().Chem
    try:
        from rdkit.Chem import Draw as draw
    except ImportError as error:  # what it draws with is not in the wheel
        fix = "apt-get install libxrender1 libxext6 libexpat1"
        raise Refusal("environment", "RDKit cannot draw here", why=str(error)[:200], fix=fix) from None
    options = draw.rdMolDraw2D.MolDrawOptions()
    options.drawMolsSameScale = False  # one long chain would make all others small
    found = [molecule(text) or chem.MolFromSmiles("") for text in texts]
    image = draw.MolsToGridImage(found, molsPerRow=columns, subImgSize=(side, side), returnPNG=False, drawOptions=options)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
