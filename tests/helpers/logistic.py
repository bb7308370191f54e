"""Logistic regression by scikit-learn, for comparison."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression


def fit_sklearn(features, labels, l2):
    """Scikit-learn's fit of the same objective: sum of losses + 1 / 2C |w|^2."""
    share = 1 if labels.max() > 1 else 0.5  # see test_two_classes_are_the_binary_fit...
    model = LogisticRegression(
        C=1 / (len(labels) * l2 * share), solver="newton-cg", tol=1e-9, max_iter=10_000
    )
    return model.fit(features, labels)
