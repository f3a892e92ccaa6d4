"""The diagnosis: what the figures of a finished run mean, in plain words, and the option to change. Standard library only."""

import math
import statistics
from typing import NamedTuple


class Finding(NamedTuple):
    """`name` of the condition, whether it is a `problem` or a remark, the figure in words, and what to type or to change."""

    name: str
    problem: bool
    text: str
    fix: str


FIGURES = {"train_elbo", "test_elbo", "elbo_error", "aggregate_gap", "worth", "amortization_gap", "residual", "sigma", "floor"}
COLLAPSED = 0.1  # nats of rate below which nothing is said of x
IDLE = 0.75  # share of active units below which some are said to be idle
JUDGE, UNLIKE = 0.8, 0.1  # share of test records that a classifier has to be right about, and by which samples may be worse
IGNORED = 0.2  # worth of z beside its rate
OVERFITTED = 0.15  # of what the latent brings on training records, lost on test records
ERRORS = 3.0  # standard errors that the two may differ by because they are of other records
RISING, LATE = 0.02, 0.8  # of what training brought, gained in what follows this share of it
CLEARLY = 0.05  # nats of that, at least
FLOORED = 0.25  # of the elements may have a sigma near its floor
MISFIT = (0.5, 2.0)  # squared residuals beside their variance
UNFILLED = 0.25  # of the rate, for codes that do not fill the prior
AMORTIZED = 0.1  # of what the latent brings, lost by the encoder
SKIPPED = 0.01  # of the updates
FAST = 5e-3  # a learning rate that may be what made a posterior collapse
USED = 0.5  # of the codes of a codebook
VANISHING, EXPLODING = 1e-6, 1e4  # gradient norm of a layer beside the median over all layers


def diagnose(report: dict, history: dict[str, list[float]]) -> list[Finding]:
    """Of report.json and the columns of metrics.jsonl: problems first. Nothing for a run that was not examined, or saw fewer figures."""
    seen = report.get("symptoms") or {}
    if not seen.keys() >= FIGURES or None in (seen["train_elbo"], seen["test_elbo"]):
        return []
    found = [finding for rule in RULES if (finding := rule(report, history))]
    return sorted(found, key=lambda finding: not finding.problem) or [HEALTHY]


def halted(report: dict, history: dict[str, list[float]]) -> list[Finding]:
    """Of a run that has not finished: its incidents and its history so far."""
    text = f"so far it has come to step {history['step'][-1]:,.0f}" if history else "so far there was no validation"
    text += f", with a validation ELBO of {history['validation.elbo'][-1]:.2f}" if history else ""
    steps = Finding("not finished", False, text, "")
    found = unsteady({**report, "train": report["train"] | ({"steps": history["step"][-1]} if history else {})}, history)
    return [found, steps] if found else [steps]


HEALTHY = Finding("healthy", False, "nothing that these figures would show is wrong", "")


def line(finding: Finding) -> tuple[str, str]:
    """(label, text) for a card."""
    return finding.name, f"{finding.text}{'; try ' * bool(finding.fix)}{finding.fix}"


def brought(report: dict) -> float:
    """Nats by which the model is better than the same likelihood without a latent."""
    return report["symptoms"]["test_elbo"] - report["references"]["per_pixel_log_likelihood"]


def pointed(report: dict) -> bool:
    """Whether the posterior is a point, whose -log p(z) is no rate."""
    return report["test"].get("log_likelihood", 0.0) is None


def collapsed(report, history):
    test = report["test"]
    active, units, rate = test["active_units"], test["units"], test["rate"]
    said = f"{active} of {units} latent units are active, and the latent carries {rate:.2f} nats"
    if {"psnr", "si_sdr", "sdr", "rmse", "dice"} & set(report.get("task", {})):  # what is given may leave nothing to the latent
        return Finding("one answer", False, f"{said}: draws for the same input are alike", "") if rate < COLLAPSED else None
    if active == 0 or rate < COLLAPSED:
        fix = '--model.objective "ELBO(warmup=STEPS, free_bits=0.1)", a smaller beta, or a weaker decoder: of tokens forget=0.3'
        rate = report["train"].get("learning_rate", 0.0)
        fix = f"--optimizer.learning-rate {0.1 * rate:.1g}, or {fix}" if rate >= FAST else fix
        return Finding("posterior collapse", True, f"{said}: nothing is said of x", fix)
    if active < IDLE * units:
        smaller = "fewer groups, or fewer channels in them" if report.get("latents") else f"a latent of {active}"
        fix = f"{smaller}, which would do as well, or free_bits=0.05, which wakes them"
        return Finding("idle units", False, f"{said}: the others equal the prior", fix)
    return None


def unhelpful(report, history):
    task = report.get("task", {})
    if "rmse" in task:
        better, text = (
            task["rmse"] < task["given_rmse"],
            f"what is filled in is {task['rmse']:.3f} off, and the middle of each column {task['given_rmse']:.3f}",
        )
    elif "dice" in task:
        better, text = (
            task["dice"] > task["usual_dice"],
            f"the masks overlap by {task['dice']:.3f} with the right ones, and what is usual at each pixel by {task['usual_dice']:.3f}",
        )
    elif kind := next((name for name in ("psnr", "si_sdr", "sdr") if name in task), ""):
        better, text = (
            task[kind] > task[f"given_{kind}"],
            f"the answers are at {task[kind]:.2f} dB, and what was given is at {task[f'given_{kind}']:.2f}",
        )
    else:
        return None
    if better:
        return None
    return Finding("answers no better", True, text, "longer training, or wider networks")


def unlike(report, history):
    task = report.get("task", {})
    if "of_class" not in task or task["of_class_real"] < JUDGE or task["of_class"] >= task["of_class_real"] - UNLIKE:
        return None
    text = (
        f"a classifier takes {task['of_class']:.0%} of the samples for what they should be, and {task['of_class_real']:.0%} of test records"
    )
    fix = '--model.objective "ELBO(warmup=STEPS, beta=4.0)", which leaves more of what is said of x to the class, or a smaller latent'
    return Finding("samples of other classes", True, text, fix)


def ignored(report, history):
    worth, rate = report["symptoms"]["worth"], report["test"]["rate"]
    if worth is None or rate < COLLAPSED or worth >= IGNORED * rate:
        return None
    text = f"with the z of another record p(x|z) loses {worth:.2f} nats, while the latent costs {rate:.2f}"
    fix = '--model.objective "ELBO(warmup=STEPS, free_bits=0.1)", or a weaker decoder: of PixelCNN fewer layers, of tokens forget=0.3'
    return Finding("decoder ignores z", True, text, fix)


def overfitted(report, history):
    seen, gain = report["symptoms"], brought(report)
    lost = seen["train_elbo"] - seen["test_elbo"]
    if seen["elbo_error"] is None or lost <= max(OVERFITTED * (gain + lost), ERRORS * seen["elbo_error"]):
        return None
    text = f"the ELBO is {seen['train_elbo']:.2f} nats on training records and {seen['test_elbo']:.2f} on test records"
    return Finding("overfitted", True, text, "more records, of images --data.augment, dropout in the networks, or --training.patience 10")


def undertrained(report, history):
    last, elbo = history["step"][-1], history["validation.elbo"]
    if report["train"]["best_step"] < 0.95 * last:
        return None
    if len(elbo) == 1:
        text = "the only validation was at the end of the run: whether it was still rising is not known"
        return Finding("one validation", False, text, "a smaller --training.evaluate-every, or a longer run")
    start = min(report["references"]["per_pixel_log_likelihood"], elbo[-1])
    seen = [(0, start), *zip(history["step"], elbo, strict=True)][:-1]
    step, late = next((point for point in seen if point[0] >= LATE * last), seen[-1])
    rose = (elbo[-1] - late) * min(1.0, (1.0 - LATE) * last / (last - step))
    if rose <= max(RISING * (elbo[-1] - min(start, late)), CLEARLY):
        return None
    text = f"the validation ELBO rose by {elbo[-1] - late:.2f} nats in the last {last - step:,.0f} steps, to {elbo[-1]:.2f}"
    return Finding("undertrained", True, text, f"--training.steps {2 * int(last)}, or a higher --optimizer.learning-rate")


def at_floor(report, history):
    share, floor = report["symptoms"].get("floored"), report["symptoms"]["floor"]
    if share is None or share <= FLOORED:
        return None
    whose = f" of {share:.0%} of the elements" if share < 0.995 else ""
    text = f"sigma{whose} is near its floor of {floor:.2g}: the density grows without bound where a value repeats"
    levels = report["test"].get("bits_per_dim") is not None  # grey levels, that is
    fix = "--data.dequantize, or a likelihood of grey levels like Logistics()" if levels else f"a larger floor: floor={10.0 * floor:g}"
    return Finding("sigma at its floor", True, text, fix)


def misfit(report, history):
    residual = report["symptoms"]["residual"]
    if residual is None or MISFIT[0] <= residual <= MISFIT[1]:
        return None
    side = "wider" if residual < 1.0 else "narrower"
    text = f"squared residuals are {residual:.2g} of what the likelihood's sigma says: it is {side} than the data"
    fix = "--model.likelihood \"Normal(sigma='optimal')\""
    if report["symptoms"]["floor"] is not None:  # it is not given, but follows the data
        fix = (
            "longer training, in which sigma follows the data"
            if residual < 1.0
            else "more records, of images --data.augment, or sigma='optimal'"
        )
    return Finding("likelihood misfit", True, text, fix)


def unfilled(report, history):
    gap, rate = report["symptoms"]["aggregate_gap"], report["test"]["rate"]
    if gap is None or rate < COLLAPSED or gap <= UNFILLED * rate:
        return None
    share = "" if pointed(report) else f"of the {rate:.2f} "
    text = f"{gap:.2f} {share}nats are between the codes of all records and the prior: samples look worse than reconstructions"
    return Finding("codes do not fill the prior", False, text, 'sample --density ex-post, or --model.prior "Mixture()"')


def amortized(report, history):
    gap, gain = report["symptoms"]["amortization_gap"], brought(report)
    if gap is None or gap <= max(AMORTIZED * gain, COLLAPSED):
        return None
    text = f"q(z|x) fitted to each record by itself gains {gap:.2f} nats over the encoder's"
    return Finding("amortization gap", False, text, 'a wider or deeper encoder, or --model.objective "Lagging()"')


def dead(report, history):
    used, codes = (report["symptoms"].get(name) for name in ("codes_used", "codes"))
    if not codes or used >= USED * codes:
        return None
    text = f"{used:.0f} of the {codes:.0f} codes are used: the others do nothing"
    return Finding("dead codes", False, text, f"count={max(2, round(used))}, which would do as well, or a larger revival")


def gradient(report, history):
    slopes = {layer: slope for layer, _, slope, _ in report.get("gradients", ())}
    middle = statistics.median(slopes.values()) if slopes else 0.0
    if not middle:
        return None
    for name, most in (("vanishing gradient", min), ("exploding gradient", max)):
        layer = most(slopes, key=slopes.get)
        share = slopes[layer] / middle
        if share < VANISHING or share > EXPLODING:
            text = f"the gradient of {layer} is {share:.1g} times that of the middle layer"
            return Finding(name, False, text, "normalization='layer' and connections='residual' in the network")
    return None


def unsteady(report, history):
    incidents, train = report.get("incidents", ()), report["train"]
    kinds = ("ended", "went back", "skipped")
    ended, returns, skipped = ([text for _, what, text in incidents if what == kind] for kind in kinds)
    if ended or returns:
        went = [f"training went back {len(returns)} time{'s' * (len(returns) > 1)}; the last: {text}" for text in returns[-1:]]
        text, share = "; ".join([*went, *ended]), 0.1 ** (len(returns) + len(ended))
        rate = train.get("learning_rate")
        lower = f"{rate * share:.1g}" if rate else f"{share:g} times as high"
        return Finding("unsteady", True, text, f"--optimizer.learning-rate {lower}, or a look at the records that incidents.jsonl names")
    if skipped:
        count = int(train.get("skipped", len(skipped)))
        text = f"{count:,} update{'s were' if count > 1 else ' was'} skipped; the last: {skipped[-1]}"
        return Finding("skipped updates", count > SKIPPED * train.get("steps", math.inf), text, "a look at these records (incidents.jsonl)")
    return None


RULES = (unsteady, unhelpful, unlike, collapsed, ignored, overfitted, undertrained, at_floor, misfit, unfilled, dead, amortized, gradient)
