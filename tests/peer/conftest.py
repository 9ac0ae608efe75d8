"""The peer tests run by `make peer-tests` only, which puts transformers' own tests on the path."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("transformers_tests") else ["test_*.py"]
