import json

import pytest

from runtime.errors import REQUIREMENTS, MissingExtra, require


def test_a_package_that_is_there_is_returned():
    assert require("json") is json


def test_a_missing_package_names_itself_and_the_file_that_lists_it():
    with pytest.raises(MissingExtra, match="no_such_package.*pip install -r .*requirements-extras.txt"):
        require("no_such_package.part")
    assert REQUIREMENTS.is_file()
