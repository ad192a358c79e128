import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh import mesh  # noqa: F401  (registers Batch as a pytree)
from convmesh.distributed.batch import Batch
from convmesh.tasks import classification_report, classify
from convmesh.tasks.classify import Classify
from convmesh.tasks.image_mixing import MixedLabels

TASK = Classify(classes=3, image_size=(8, 8))
# Softmax gives 1/8, 2/8, 5/8; then 6/8, 1/8, 1/8; then anything.
LOGITS = np.log(np.array([[1, 2, 5], [6, 1, 1], [4, 2, 9]], np.float32))


def batch(labels, present):
    return Batch(image=None, label=np.array(labels, np.int32), present=np.array(present))


def test_loss_and_accuracy_by_hand():
    loss, numbers = TASK.loss(LOGITS, batch([2, 1, 0], [True, True, False]))
    assert loss == pytest.approx(-(np.log(5 / 8) + np.log(1 / 8)) / 2, rel=1e-6)
    assert numbers["top1"] == 0.5


def test_padding_has_weight_0():
    given = batch([2, 1, 0], [True, True, False])
    gradient = jax.grad(lambda logits: TASK.loss(logits, given)[0])(LOGITS)
    # (p - one hot) / 2 images, and nothing for the padding.
    wanted = np.array([[1, 2, -3], [6, -7, 1], [0, 0, 0]]) / 16
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


def test_a_batch_of_padding_is_finite():
    given = batch([0, 0, 0], [False] * 3)
    (loss, numbers), gradient = jax.value_and_grad(TASK.loss, has_aux=True)(LOGITS, given)
    assert loss == 0 and numbers["top1"] == 0 and not gradient.any()


def test_bfloat16_logits_are_converted_to_float32():
    loss, _ = TASK.loss(jnp.asarray(LOGITS, jnp.bfloat16), batch([2, 1, 0], [True] * 3))
    assert loss.dtype == jnp.float32
    assert TASK.predict(jnp.asarray(LOGITS, jnp.bfloat16))["probabilities"].dtype == jnp.float32


def test_predictions_on_the_host_are_sorted():
    p = TASK.predict(LOGITS)["probabilities"]
    np.testing.assert_allclose(p[0], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    one = TASK.to_host({"probabilities": p[1]}, {})
    assert one["labels"].tolist() == [0, 1, 2]  # equal ones stay in order
    np.testing.assert_allclose(one["scores"], [6 / 8, 1 / 8, 1 / 8], rtol=1e-6)


def test_of_many_classes_the_best_and_the_true_one_are_kept(monkeypatch):
    found = {"labels": np.array([2, 0, 3, 1]), "scores": np.array([0.5, 0.3, 0.15, 0.05])}
    assert TASK.kept(found, {"label": 1}) is found
    monkeypatch.setattr(classify, "ALL_RESULTS", 3)
    monkeypatch.setattr(classify, "MOST_RESULTS", 2)
    kept = TASK.kept(found, {"label": 1})
    assert kept["labels"].tolist() == [2, 0, 1] and kept["scores"].tolist() == [0.5, 0.3, 0.05]
    assert TASK.kept(found, {"label": 0})["labels"].tolist() == [2, 0]
    table = classification_report.probabilities_of(kept, 4)
    assert table.tolist() == [0.3, 0.05, 0.5, 0.0]


def test_top1_and_top5_by_hand():
    # Ranks of the truth: first, second, fifth, sixth.
    scores = np.array([0.65, *[0.05] * 7])
    order = np.array([7, 1, 2, 3, 4, 5, 6, 0])
    found = [{"labels": order, "scores": scores}] * 4
    truth = [{"label": label} for label in (7, 1, 4, 5)]
    metrics = TASK.metrics(truth, found, [str(i) for i in range(8)])
    assert (metrics["top1"], metrics["top5"], metrics["images"]) == (0.25, 0.75, 4)
    # Of the four classes with images one is always found, and a quarter of what is called so is.
    assert (metrics["precision"], metrics["recall"]) == pytest.approx((1 / 16, 1 / 4))
    assert metrics["F1"] == pytest.approx(0.4 / 4)  # 2 of 4 + 1, for one of four classes
    assert metrics["ECE"] == pytest.approx(0.65 - 0.25)
    assert TASK.best_metric in metrics
    table = TASK.table(metrics, [])
    assert "top1 0.2500" in table and "recall 0.2500" in table and "(ECE) 0.4000" in table


def test_results_name_classes_best_first():
    found = {"image_id": 4, "file_name": "a.png"} | TASK.to_host(
        {"probabilities": np.array([0.2, 0.5, 0.3], np.float32)}, {}
    )
    (result,) = TASK.results([found], ["cat", "dog", "cow"])
    assert result["image_id"] == 4 and result["file_name"] == "a.png"
    assert [c["class"] for c in result["classes"]] == ["dog", "cow", "cat"]
    assert result["classes"][0]["probability"] == pytest.approx(0.5)


# --- smoothing, mixed labels, weights of classes --------------------------------------------------


def test_label_smoothing_by_hand():
    task = Classify(3, (8, 8), smoothing=0.3)
    loss, _ = task.loss(LOGITS, batch([2, 1, 0], [True, False, False]))
    # 0.7 of the target on the class, and 0.1 on each of the three.
    wanted = -(0.8 * np.log(5 / 8) + 0.1 * np.log(1 / 8) + 0.1 * np.log(2 / 8))
    assert loss == pytest.approx(wanted, rel=1e-6)


def test_labels_of_two_images_count_by_their_shares():
    given = batch([2, 1, 0], [True, True, False])
    mixed = MixedLabels(np.array([0, 0, 1]), np.array([0.75, 0.4, 0.5], np.float32))
    loss, numbers = TASK.loss(LOGITS, given, mixed)
    first = 0.75 * np.log(5 / 8) + 0.25 * np.log(1 / 8)
    second = 0.4 * np.log(1 / 8) + 0.6 * np.log(6 / 8)
    assert loss == pytest.approx(-(first + second) / 2, rel=1e-6)
    assert numbers["top1"] == pytest.approx((0.75 + 0.6) / 2)


def test_weights_of_classes_by_hand():
    task = Classify(3, (8, 8), class_weights=(4.0, 0.5, 2.0))
    loss, numbers = task.loss(LOGITS, batch([2, 1, 0], [True, True, False]))
    assert loss == pytest.approx(-(2 * np.log(5 / 8) + 0.5 * np.log(1 / 8)) / 2.5, rel=1e-6)
    assert numbers["top1"] == 0.5  # of the examples, not of the weights
    # A sum of weights below 1 divides too.
    task = Classify(3, (8, 8), class_weights=(1.0, 1.0, 0.1))
    loss, _ = task.loss(LOGITS, batch([2, 1, 0], [True, False, False]))
    assert loss == pytest.approx(-np.log(5 / 8), rel=1e-6)
