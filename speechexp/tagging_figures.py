"""The figures of a tagging test: those of the whole split, those of each class, and how they are told."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from speechexp import single_label
from speechexp.tagging_interval import bootstrap_map_interval
from speechexp.tagging_metrics import (
    FALLBACK_THRESHOLD,
    average_precision,
    count_pairs,
    d_prime,
    f1_at,
    mean_over_present,
    roc_auc,
)

Scores = npt.NDArray[np.float32]
Targets = npt.NDArray[np.bool_]
_UNVALIDATED = "_at_0.5"  # of figures at thresholds that no validation gave


def split_figures(
    scores: Scores, targets: Targets, single: bool, thresholds: Sequence[float] | None, seed: int
) -> dict[str, float]:
    """Return the figures of a split by name; means are over the classes that it has an example of.

    Args:
        scores: ``(clips, classes)``.
        targets: ``(clips, classes)``.
        single: Whether each clip has exactly one class.
        thresholds: Of each class; None if no validation gave any.
        seed: Of the resampling for intervals.
    """
    mean = mean_over_present(average_precision(scores, targets))
    low, high = bootstrap_map_interval(scores, targets, seed)
    figures: dict[str, float] = {
        "clips": len(scores),
        "classes_present": int(targets.any(axis=0).sum()),
        "map": mean,
        "map_present_classes": mean,
        "map_ci95_low": low,
        "map_ci95_high": high,
    }
    mean_auc = mean_over_present(roc_auc(scores, targets))
    if not np.isnan(mean_auc):
        figures["auc_present_classes"] = mean_auc
        figures["dprime_present_classes"] = float(d_prime(mean_auc, count_pairs(targets).sum()))
    if single:
        labels = single_label.only_labels(targets)
        low, high = single_label.accuracy_interval(scores, labels, seed)
        figures["accuracy"] = single_label.accuracy(scores, labels)
        figures |= {"accuracy_ci95_low": low, "accuracy_ci95_high": high}
        figures["balanced_accuracy"] = single_label.balanced_accuracy(scores, labels)
    else:
        f1 = f1_at(scores, targets, FALLBACK_THRESHOLD if thresholds is None else thresholds)
        where = _UNVALIDATED if thresholds is None else ""
        figures |= {f"f1_micro{where}": f1.micro, f"f1_macro_present_classes{where}": f1.macro}
    return figures


def class_figures(
    scores: Scores, targets: Targets, single: bool, thresholds: Sequence[float] | None
) -> dict[str, list[float | None]]:
    """Return columns with a figure for each class, None where there is no telling.

    Args:
        scores: ``(clips, classes)``.
        targets: ``(clips, classes)``.
        single: Whether each clip has exactly one class.
        thresholds: Of each class; None if no validation gave any.
    """
    auc = roc_auc(scores, targets)
    columns = {
        "average_precision": average_precision(scores, targets),
        "auc": auc,
        "d_prime": d_prime(auc, count_pairs(targets)),
    }
    if single:
        columns["recall"] = single_label.recalls(scores, single_label.only_labels(targets))
    else:
        used = np.full(scores.shape[1], FALLBACK_THRESHOLD) if thresholds is None else np.array(thresholds)
        columns |= {"threshold": used, "f1": f1_at(scores, targets, used).per_class}
    return {
        name: [None if np.isnan(value) else value for value in values.tolist()]
        for name, values in columns.items()
    }


def figures_in_words(figures: Mapping[str, float], classes: int, single: bool) -> list[str]:
    """Return lines in rich's markup that tell the figures of a test, ``test/…``, the first with its interval.

    Args:
        figures: As `split_figures` has them, and ``ap_by_class/NAME``.
        classes: That the network tells apart.
        single: Whether each clip has exactly one class.
    """
    name, title = ("accuracy", "accuracy") if single else ("map", "mAP")
    low, high = figures[f"test/{name}_ci95_low"], figures[f"test/{name}_ci95_high"]
    first = f"[bold]test {title} {figures[f'test/{name}']:.4f}[/bold] (95 % interval {low:.4f} to {high:.4f})"
    if single:
        first += f", balanced {figures['test/balanced_accuracy']:.4f}, mAP {figures['test/map']:.4f}"
    else:
        first += f" over the {int(figures['test/classes_present'])} of {classes} classes present"
    rest = []
    if "test/auc_present_classes" in figures:
        auc, distance = figures["test/auc_present_classes"], figures["test/dprime_present_classes"]
        rest.append(f"AUC {auc:.4f}, d′ {distance:.2f}")
    for where, told in (("", "the thresholds of validation"), (_UNVALIDATED, "0.5: nothing was validated")):
        if f"test/f1_micro{where}" in figures:
            micro, macro = figures[f"test/f1_micro{where}"], figures[f"test/f1_macro_present_classes{where}"]
            rest.append(f"F1 {micro:.4f} micro, {macro:.4f} macro, at {told}")
    prefix = "test/ap_by_class/"
    by_class = sorted((value, key.removeprefix(prefix)) for key, value in figures.items() if prefix in key)
    worst = "; ".join(f"{escape(each)} {value:.3f}" for value, each in by_class[:8])
    return [
        f"{first}, on {int(figures['test/clips'])} clips",
        *(["; ".join(rest)] if rest else []),
        f"average precision, worst first: {worst}{'; …' if len(by_class) > 8 else ''}",
    ]
