"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import metagrad
import metagrad.api
import metagrad.frontend
import metagrad.mgd
import metagrad.runtime.streams

MODULES = [
    "metagrad",
    *(
        f"{package.__name__}.{module.name}"
        for package in (metagrad.api, metagrad.frontend, metagrad.mgd, metagrad.runtime.streams)
        for module in pkgutil.iter_modules(package.__path__)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert not failed


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    from metagrad.api import grad, train_step

    assert (
        sum(len(test.examples) for module in (train_step, grad) for test in finder.find(module)) > 5
    )


@pytest.mark.parametrize("name", list(metagrad.__all__))
def test_public_names_have_docstrings(name):
    assert getattr(metagrad, name).__doc__
