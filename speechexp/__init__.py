"""speechexp: whole speech experiments from YAML."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# pyannote.audio reports on its use unless this is there before its import.
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"

try:
    __version__ = version("speechexp")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

# In a checkout conf/ lies beside the package; installed, it lies in it. Run from a checkout, the package found is
# the checkout's, whatever else is installed.
_checkout = Path(__file__).resolve().parent.parent
if not (_checkout / "speechexp" / "conf").is_dir() and (_checkout / "conf" / "config.yaml").is_file():
    __path__.append(str(_checkout))
