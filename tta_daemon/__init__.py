"""A test-time adaptation daemon: images in from Kafka, adapted answers out, drift and accuracy in Prometheus."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tta-daemon")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
