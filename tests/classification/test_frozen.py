"""A logistic regression on frozen features."""

import numpy as np

from mlmtune.classification.frozen import fit_and_predict


def test_a_single_label_is_always_predicted() -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    labels = np.full(3, 4)
    assert fit_and_predict((ones, labels), ones, ones, "none", float).tolist() == [4, 4, 4]


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
