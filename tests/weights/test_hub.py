"""Weights from a Hugging Face hub, which here is a server on loopback."""

import hashlib
import http.server
import json
import threading

import pytest

from convmesh.errors import ConfigError, DataError, RunError
from convmesh.weights import download, hub
from convmesh.weights.hub import HubFile, hub_input, hub_weights

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
COMMIT = "0123456789" * 4
# As timm writes it.
STATED = {
    "input_size": [3, 288, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "num_classes": 1000,
}


def entry(name, digest=DIGEST):
    return {"rfilename": name, "size": 9, "lfs": {"sha256": digest, "size": len(DATA)}}


def answer(*names):
    card = {"license": "apache-2.0"}
    plain = {"rfilename": "README.md", "size": 9}
    return {"sha": COMMIT, "siblings": [plain, *map(entry, names)], "cardData": card}


class Handler(http.server.BaseHTTPRequestHandler):
    """A hub: `asked` is what it was asked for, and with which token."""

    asked, repositories, configs = [], {}, {}

    def do_GET(self):  # noqa: N802, the library's name
        self.asked.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/api/models/"):
            found = self.repositories.get(self.path.removeprefix("/api/models/"))
            if found is None:
                self.send_error(404)
                return
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
        elif (name := self.path.replace(f"/resolve/{COMMIT}", "")) in self.configs:
            data = json.dumps(self.configs[name]).encode()
        elif "/resolve/" in self.path:  # as the hub does, from another address
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/blob")
            self.end_headers()
            return
        else:
            data = DATA
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(Handler, "asked", [])
    repositories = {"a/net/revision/main?blobs=true": answer("model.safetensors", "old.bin")}
    monkeypatch.setattr(Handler, "repositories", repositories)
    monkeypatch.setattr(Handler, "configs", {})
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{found.server_port}/")
        yield Handler
        found.shutdown()


@pytest.mark.parametrize(
    "address, parts",
    [
        ("hf://a/net", ("a/net", "main", "")),
        ("hf://a-b/net.v2_x/w/model.pth", ("a-b/net.v2_x", "main", "w/model.pth")),
        ("hf://a/net@v1.0", ("a/net", "v1.0", "")),
        ("hf://a/net@v1.0/w/x.bin", ("a/net", "v1.0", "w/x.bin")),
    ],
)
def test_the_form_of_an_address(address, parts):
    assert HubFile.parse(address) == HubFile(*parts)


@pytest.mark.parametrize("address", ["hf://net", "hf://a/", "hf:///net", "hf://../x", "hf://a/n@"])
def test_another_form_is_refused(address):
    with pytest.raises(ConfigError, match="not of the form hf://OWNER/NAME"):
        HubFile.parse(address)


def test_the_usual_file_is_downloaded_once_and_all_is_said_before(server, tmp_path):
    said = []
    path = hub_weights("hf://a/net", tmp_path, said.append)
    assert path.read_bytes() == DATA and path.name == f"{DIGEST[:16]}-model.safetensors"
    assert len(said) == 1
    for word in (f"/a/net/resolve/{COMMIT}/model.safetensors, ", "apache-2.0", DIGEST, "0 MB"):
        assert word in said[0]
    assert hub_weights("hf://a/net", tmp_path, said.append) == path
    assert said[1] == f"init_from=hf://a/net: {path}, licence apache-2.0"
    assert [path for path, _ in server.asked].count("/blob") == 1


# --- what its weights expect ----------------------------------------------------------------------


def state(server, config, name="config.json"):
    """Gives the repository a/net a config.json, or another file."""
    plain = {"rfilename": name, "size": 9}
    server.repositories["a/net/revision/main?blobs=true"]["siblings"].append(plain)
    server.configs[f"/a/net/{name}"] = config


def test_what_a_repository_of_timm_states(server, tmp_path, monkeypatch):
    assert hub_input("hf://a/net", tmp_path) == {}
    state(server, {"architecture": "resnet50", "pretrained_cfg": STATED})
    expected = {
        "data.pixel_mean": (0.5, 0.4, 0.3),
        "data.pixel_std": (0.2, 0.3, 0.4),
        "data.eval_interpolation": "bicubic",
        "data.image_size": (288, 288),
        "data.eval_resize": 303,
    }
    assert hub_input("hf://a/net", tmp_path) == expected
    assert "/blob" not in [path for path, _ in server.asked]  # no weights
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_input("hf://a/net", tmp_path) == expected
    with pytest.raises(RunError, match="Connection refused"):
        hub_input("hf://a/net@v1", tmp_path)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"pretrained_cfg": STATED | {"mean": [1, 2]}}, "data.pixel_mean"),
        ({"pretrained_cfg": STATED | {"std": 3}}, "not iterable"),
        ({"pretrained_cfg": STATED | {"input_size": [224]}}, "not enough values"),
        ({"pretrained_cfg": STATED | {"crop_pct": 0}}, "crop_pct: 0.0 is not above 0"),
        ({"pretrained_cfg": 7}, ""),
        ([], ""),
    ],
)
def test_a_damaged_config_is_refused(server, tmp_path, config, said):
    state(server, config)
    with pytest.raises(DataError, match=f"init_from=hf://a/net: its config.json .*: .*{said}"):
        hub_input("hf://a/net", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config, models, said",
    [
        (
            {"architecture": "tf_efficientnet_b0", "pretrained_cfg": STATED},
            ("efficientnet_b0",),
            "timm's architecture tf_efficientnet_b0, which computes something else than "
            "efficientnet_b0 here; take weights of timm's efficientnet_b0$",
        ),
        (
            {"architecture": "tf_efficientnet_lite1"},
            ("efficientnet_lite0",),
            "_lite0, or for tf_efficientnet_lite1 name the model efficientnet_lite1$",
        ),
        ({"architecture": "resnetaa50"}, ("fcos_resnet50_fpn", "resnet50"), "timm's resnet50$"),
        ({"model_type": "resnet", "downsample_in_bottleneck": True}, ("resnet50",), "has false$"),
    ],
)
def test_a_stated_net_that_computes_something_else_is_refused(
    server, tmp_path, config, models, said
):
    state(server, config)
    with pytest.raises(ConfigError, match=f"init_from=hf://a/net: its config.json states .*{said}"):
        hub_input("hf://a/net", tmp_path, models)
    assert list(tmp_path.iterdir()) == []


def test_the_first_form_of_timms_config(server, tmp_path):
    state(server, {"architecture": "resnet50", **STATED})
    assert hub_input("hf://a/net", tmp_path, ("resnet50",))["data.eval_resize"] == 303


# As transformers writes it for ResNet.
PREPROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
    "size": 224,
}


def test_what_a_repository_of_transformers_states(server, tmp_path, monkeypatch):
    state(server, {"model_type": "resnet"})
    state(server, PREPROCESSOR, "preprocessor_config.json")
    expected = {
        "data.pixel_mean": (0.5, 0.4, 0.3),
        "data.pixel_std": (0.2, 0.3, 0.4),
        "data.eval_interpolation": "bicubic",
        "data.image_size": (224, 224),
        "data.eval_resize": 256,
    }
    assert hub_input("hf://a/net", tmp_path, ("resnet50",)) == expected
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_input("hf://a/net", tmp_path, ("resnet50",)) == expected


def test_what_timm_states_is_its_own(server, tmp_path):
    state(server, PREPROCESSOR, "preprocessor_config.json")
    state(server, {"architecture": "resnet50", "pretrained_cfg": STATED})
    assert hub_input("hf://a/net", tmp_path)["data.eval_resize"] == 303


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"image_mean": [1, 2]}, "data.pixel_mean"),
        ({"image_std": 3}, "not iterable"),
        ({"size": {"longest_edge": 9}}, "height"),
        ({"size": "x"}, "size: x is no size"),
        ({"crop_pct": -1}, "crop_pct: -1.0 is not above 0"),
        ({"rescale_factor": 0}, "division by zero"),
        ({"resample": []}, "unhashable"),
    ],
)
def test_a_damaged_file_of_transformers_is_refused(server, tmp_path, changes, said):
    state(server, PREPROCESSOR | changes, "preprocessor_config.json")
    with pytest.raises(
        DataError, match=f"a/net: its preprocessor_config.json is damaged: .*{said}"
    ):
        hub_input("hf://a/net", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_program_states_nothing(server, tmp_path):
    state(server, {"model_type": "resnet"})
    assert hub_input("hf://a/net", tmp_path) == {}


# --- its weights ----------------------------------------------------------------------------------


def test_a_file_and_a_revision(server, tmp_path):
    server.repositories["a/net/revision/v1?blobs=true"] = answer("w/x.bin")
    path = hub_weights("hf://a/net@v1/w/x.bin", tmp_path, print)
    assert path.name == f"{DIGEST[:16]}-x.bin" and path.parent == tmp_path / "hub"
    assert hub_weights("hf://a/net@v1", tmp_path, print) == path  # the only one there


def test_the_token_is_for_the_hub_alone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub_weights("hf://a/net", tmp_path, print)
    tokens = {path.split("/")[1]: token for path, token in server.asked}
    assert tokens == {"api": "Bearer secret", "a": "Bearer secret", "blob": None}


def test_without_a_network_the_cache_is_taken(server, tmp_path, monkeypatch):
    path = hub_weights("hf://a/net", tmp_path, print)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = []
    assert hub_weights("hf://a/net", tmp_path, said.append) == path
    assert (
        f"Connection refused; or download the file by other means, and give its path; taking {path}"
        in said[0]
    )
    with pytest.raises(RunError, match="Connection refused; or download the file by other means"):
        hub_weights("hf://a/net/old.bin", tmp_path, print)


@pytest.mark.parametrize(
    "found, address, said",
    [
        (None, "hf://a/gone", r"has no such repository or revision, .*\(HTTP 404\)"),
        (answer("model.safetensors"), "hf://a/x/model.bin", "no file model.bin; there are model.s"),
        (answer("a.pth", "b.pth"), "hf://a/x", "no usual file of weights; there are a.pth, b.pth"),
        (answer(), "hf://a/x", "the repository has no usual file of weights$"),
        (answer() | {"siblings": [entry("model.safetensors", "12")]}, "hf://a/x", "no SHA-256 of"),
    ],
)
def test_what_is_not_there_is_refused(server, tmp_path, found, address, said):
    server.repositories["a/x/revision/main?blobs=true"] = found
    with pytest.raises(ConfigError, match=said):
        hub_weights(address, tmp_path, print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", [b"<html>", b"[]", {"siblings": 3}])
def test_another_server_is_no_hub(server, tmp_path, found):
    server.repositories["a/x/revision/main?blobs=true"] = found
    with pytest.raises(RunError, match="not the answer of a Hugging Face hub"):
        hub_weights("hf://a/x", tmp_path, print)


def test_another_file_than_the_hub_states_is_not_kept(server, tmp_path):
    stated = answer() | {"siblings": [entry("model.safetensors", "0" * 64)]}
    server.repositories["a/x/revision/main?blobs=true"] = stated
    with pytest.raises(RunError, match="damaged: its SHA-256 is"):
        hub_weights("hf://a/x", tmp_path, print)
    assert list((tmp_path / "hub").iterdir()) == []
    assert hub.SCHEME == "hf://"
