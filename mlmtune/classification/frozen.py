"""A logistic regression on what an encoder says, its weights as they are."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlmtune.classification.metrics import confusion_matrix, macro_f1
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C that validation chooses among."""
MOST_ITERATIONS = 2000


def check_available() -> None:
    """Find out before anything is computed whether there is a scikit-learn.

    Raises:
        ConfigError: it is not installed.
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
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: NDArray[np.float32],
    class_weights: Literal["none", "balanced"],
) -> NDArray[np.int64]:
    """Labels of the test by the regression that is best on validation.

    Features are scaled to mean 0 and variance 1 over the training examples. Of equally good
    regressions the most regularised is taken.

    Args:
        train: (n, H) features and (n,) labels.
        validation: the same; chooses how strongly weights are regularised, by macro-F1.
        test: (m, H) features.
        class_weights: as in the section `data`.

    Returns:
        (m,) labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    num_labels = 1 + int(max(train[1].max(), validation[1].max()))
    best: Any = None
    best_f1 = -1.0
    for strength in REGULARISATIONS:
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=strength,
                class_weight=None if class_weights == "none" else class_weights,
                max_iter=MOST_ITERATIONS,
            ),
        )
        model.fit(*train)
        confusion = confusion_matrix(validation[1], model.predict(validation[0]), num_labels)
        f1 = float(macro_f1(confusion))
        if f1 > best_f1:
            best, best_f1 = model, f1
    return np.asarray(best.predict(test), dtype=np.int64)
