"""LEEP and NLEEP: prediction of labels from soft clusters of the images."""

from __future__ import annotations

import warnings

import numpy as np

from medtransfer.transferability.arrays import (
    Floats,
    Integers,
    classes_of,
    principal_components,
    spread,
)
from medtransfer.transferability.registry import Undefined, register_score


@register_score(
    title="Log likelihood of the labels given the probabilities of the source's classes",
    paper="Nguyen, Hassner, Seeger, Archambeau: LEEP, ICML 2020",
)
def leep(source_probabilities: Floats, labels: Integers) -> float:
    """Compute the mean over items of log sum_z P(y|z) theta_z, with P(y|z) from the items.

    Args:
        source_probabilities: theta, (N, S), rows that sum to 1.
        labels: (N,).

    Raises:
        Undefined: With one class only.
    """
    classes, counts = classes_of(labels)
    joint = np.eye(len(counts))[classes].T @ source_probabilities  # N P(y, z), (C, S)
    marginal = joint.sum(axis=0)
    used = marginal > 0
    conditional = joint[:, used] / marginal[used]
    likelihood = (source_probabilities[:, used] * conditional[classes]).sum(axis=1)
    with np.errstate(divide="ignore"):
        return float(np.log(likelihood).mean())


@register_score(
    title="LEEP over the components of a Gaussian mixture of the features",
    paper="Li et al.: Ranking neural checkpoints, CVPR 2021",
)
def nleep(
    features: Floats,
    labels: Integers,
    *,
    share: float = 0.8,
    components_per_class: int = 5,
    most: int = 10_000,
    seed: int = 0,
) -> float:
    """Compute LEEP with the posteriors of a mixture over principal components as theta.

    Args:
        features: (N, D).
        labels: (N,).
        share: Share of the variance that the principal components keep.
        components_per_class: Components of the mixture per class.
        most: Largest number of items, evenly spaced; each iteration takes a D x D product of each.
        seed: Seed of the mixture's start.

    Raises:
        Undefined: With one class only, fewer items than components, or equal features.
    """
    classes_of(labels)
    chosen = spread(len(labels), most)
    features, labels = features[chosen], labels[chosen]
    _, counts = classes_of(labels, among=True)
    components = components_per_class * len(counts)
    if len(features) < components:
        raise Undefined(f"{len(features)} images for {components} components")
    reduced = principal_components(features, share=share)
    # Imported late: takes a second.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # from duplicate items
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return leep(posteriors, labels)
