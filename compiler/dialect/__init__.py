"""The IR that the passes work on: the metagrad dialect, Enzyme's ops, functions, loops, matching.

MLIR's Python bindings look for a module of each dialect's name whenever they wrap one of its ops,
and forget that there is none: a search of the whole import path for each op took a third of the
time of lowering a GPT. So this package is one of the places where they look, and enzyme.py is what
they find.
"""

from jaxlib.mlir.dialects._ods_common import _cext

_cext.globals.append_dialect_search_prefix(__name__)
