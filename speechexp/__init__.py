"""speechexp: whole speech experiments from YAML."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("speechexp")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
