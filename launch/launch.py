"""Makes `python launch/NAME.py` work: there this folder is on the path, and this file is found for
the package `launch`. It puts the root in the folder's place, and the package in its own.
"""

import importlib
import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
del sys.modules[__name__]
importlib.import_module("launch")
