"""An inference service that answers by what the daemon has learned, as soon as that is published.

    pip install numpy onnxruntime
    tta-daemon export --config config.toml --open --out model.onnx
    python examples/service.py model.onnx published --port 8000
    curl --data-binary @images.npy localhost:8000    # float32, N x 3 x H x W in [0, 1]

``published`` is the daemon's publish.folder. `Service` is all that a service of your own needs.
"""

import argparse
import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import onnxruntime as ort


class Service:
    """Answers images, by the newest adapter in the folder."""

    def __init__(self, model: str, folder: str) -> None:
        self.session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.latest, self.manifest, self.options = Path(folder, "latest.json"), {}, None

    def refresh(self) -> None:
        """Take the newest adapter, if it is another. The file changes in one piece, and what it names is there."""
        manifest = json.loads(self.latest.read_text()) if self.latest.exists() else {}
        if manifest.get("version") != self.manifest.get("version"):
            self.adapter, options = ort.LoraAdapter(), ort.RunOptions()
            self.adapter.Load(str(self.latest.with_name(manifest["files"]["onnx_adapter"]["name"]).absolute()))
            options.add_active_adapter(self.adapter)  # counts in run, never in run_with_iobinding
            self.manifest, self.options = manifest, options

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits, N x C."""
        self.refresh()
        return self.session.run(["logits"], {"images": images}, self.options)[0]


def main() -> None:
    """Answer by HTTP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    service = Service(options.model, options.folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted = self.rfile.read(int(self.headers["Content-Length"]))
            logits = service(np.load(io.BytesIO(posted), allow_pickle=False))
            said = {"classes": logits.argmax(1).tolist(), "logits": logits.tolist(),
                    "version": service.manifest.get("version")}  # fmt: skip
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

    server = HTTPServer(("127.0.0.1", options.port), Handler)
    print(f"answering at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
