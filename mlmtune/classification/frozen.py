"""A logistic regression on the features of an encoder that is not trained."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The values of scikit-learn's C, of which validation chooses one."""


def check_available() -> None:
    """Check that scikit-learn is installed, before anything is computed.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"probe.methods: frozen needs scikit-learn; {pip_install('mlmtune[probe]')}, or set "
            "probe.methods=[finetuned]"
        ) from error


def fit_and_predict(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    validation: NDArray[np.float32],
    test: NDArray[np.float32],
    class_weights: Literal["none", "balanced"],
    score: Callable[[NDArray[np.int64]], float],
) -> NDArray[np.int64]:
    """Predict the test's labels (m,) by the regression with the best score on validation.

    Features are scaled to mean 0 and variance 1 over the training examples. Of equally good
    regressions, the most regularised one predicts.

    Args:
        train: (n, H) Features and (n,) labels.
        validation: (k, H) Features.
        test: (m, H) Features.
        class_weights: `data.class_weights`.
        score: Scores the predicted labels (k,) of validation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train[1])) == 1:  # a regression needs two labels
        return np.full(len(test), train[1][0], dtype=np.int64)
    best: Any = None
    best_score = -1.0
    for strength in REGULARISATIONS:
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=strength,
                class_weight=None if class_weights == "none" else class_weights,
                max_iter=2000,  # the default of 100 often ends before convergence
            ),
        )
        model.fit(*train)
        of_model = score(np.asarray(model.predict(validation), dtype=np.int64))
        if of_model > best_score:  # from small to large C, so that the most regularised one stays
            best, best_score = model, of_model
    return np.asarray(best.predict(test), dtype=np.int64)
