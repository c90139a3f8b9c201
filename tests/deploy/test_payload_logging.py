"""What KServe's logger leaves in a topic by way of Knative's KafkaSink is answered; docs/deploy-sidecar.md says so."""

import json

import numpy as np
from nets import images
from world import Memory, config

REQUEST = {"name": "input", "datatype": "UINT8", "shape": [1, 16, 16, 3]}


def logged(number, kind="request"):
    """A CloudEvent in binary mode, with the attributes that KServe gives it."""
    attributes = {
        "specversion": "1.0",
        "id": f"request-{number}",
        "source": "http://localhost:9081/",
        "type": f"org.kubeflow.serving.inference.{kind}",
        "time": "2026-11-01T12:00:00Z",
        "inferenceservicename": "classifier",
        "namespace": "vision",
        "component": "predictor",
        "endpoint": "",
    }
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return (*headers, ("content-type", b"application/json"))


def test_kserve_requests_are_answered_by_their_ids():
    world = Memory(config())
    pixels = (images(8).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    for number, picture in enumerate(pixels):
        body = {"id": f"request-{number}", "inputs": [REQUEST | {"data": picture.reshape(-1).tolist()}]}
        world.log.append("images", json.dumps(body).encode(), headers=logged(number))
    world.run_dry()
    assert world.answered() == [f"request-{number}" for number in range(8)]
    assert world.buried() == []


def test_logged_answers_are_dead_lettered():
    world = Memory(config(limits={"reject_ratio": 1.0}))
    body = {"model_name": "classifier", "id": "request-0", "outputs": [{"name": "output", "data": [0.1, 0.9]}]}
    world.log.append("images", json.dumps(body).encode(), headers=logged(0, "response"))
    world.run_dry()
    (letter,) = world.buried()
    assert letter.header("tta.dlq.reason") == "undecodable"


def test_normalized_tensors_are_dead_lettered_as_out_of_range():
    world = Memory(config(limits={"reject_ratio": 1.0}))
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 16, 16], "data": [-1.5] * 768}
    world.log.append("images", json.dumps({"inputs": [tensor]}).encode(), headers=logged(0))
    world.run_dry()
    (letter,) = world.buried()
    assert letter.header("tta.dlq.reason") == "out_of_range"
