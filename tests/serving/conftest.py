"""What tests of the worker in a process of its own share."""

import pytest


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return tmp_path_factory.mktemp("volume")
