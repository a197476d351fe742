"""A logistic regression on frozen features."""

import numpy as np

from mlmtune.classification.frozen import fit_and_predict


def test_validation_chooses_how_much_is_regularised() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 20)).astype(np.float32)
    labels = (features[:, 0] + features[:, 1] > 0).astype(np.int64)
    predicted = fit_and_predict(
        (features[:100], labels[:100]),
        features[100:200],
        features[200:],
        "none",
        lambda numbers: float(np.mean(numbers == labels[100:200])),
    )
    assert np.mean(predicted == labels[200:]) > 0.85
