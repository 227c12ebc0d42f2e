"""The trees of an exported run in its manifest: leaves by path, without Python objects.

Of an argument, the leaves are stored and not the structure: at a call it comes from the argument,
whose paths must be the stored ones. So Equinox modules, Flax and optax states need no import where
a file is loaded before the caller has made one. Of an auxiliary output, which no argument shows,
the structure is stored: dicts, lists, tuples, named tuples and None.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import keyword
import warnings
from typing import Any

import jax

from metagrad.api.static_parts import static_parts
from metagrad.api.user_frame import users_level
from metagrad.frontend.pytrees import Leaf, Tree, key_impl, shaped, stored_aval
from metagrad.runtime.exported import avals
from metagrad.runtime.exported.fields import Fields


@dataclasses.dataclass(frozen=True)
class StoredTree:
    """One argument, as its file describes it.

    Attributes:
      name: "state", "meta", "batches" or "outer_args".
      entries: for each leaf in order its path (`['w']`), and the leaf, or of a constant its
        description (`describe_constant`).
      static: `static_parts` of its structure.
    """

    name: str
    entries: tuple[tuple[str, Leaf | str], ...]
    static: list[tuple[str, str]]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(entry for _, entry in self.entries if isinstance(entry, Leaf))

    def describe(self) -> list[str]:
        """A line for each leaf."""
        return [
            f"{self.name}{path}: {shaped(x.aval) if isinstance(x, Leaf) else x}"
            for path, x in self.entries
        ]

    def tree(self, value: Any) -> Tree:
        """The tree with the structure and the constants of an argument.

        Shapes and dtypes are not compared. A static part that differs makes a warning: the same
        thing may have another text in another version of a library.

        Raises:
          TypeError: the argument has other leaves; the message names the first.
        """
        with_paths, structure = jax.tree_util.tree_flatten_with_path(value)
        paths = [jax.tree_util.keystr(path) for path, _ in with_paths]
        self._check_paths(paths)
        self._compare_static(static_parts(structure))
        constants = []
        for (path, entry), (_, leaf) in zip(self.entries, with_paths):
            if not isinstance(entry, Leaf):
                if describe_constant(leaf) != entry:
                    raise TypeError(
                        f"{self.name}{path} is {leaf!r}, and this program was exported for {entry}"
                    )
                constants.append(leaf)
        is_array = tuple(isinstance(entry, Leaf) for _, entry in self.entries)
        return Tree(self.name, self.leaves, tuple(constants), is_array, structure)

    def _compare_static(self, static: list[tuple[str, str]]) -> None:
        if [kind for kind, _ in static] != [kind for kind, _ in self.static]:
            return  # Other containers, with the same paths.
        for (kind, given), (_, stored) in zip(static, self.static):
            if given != stored:
                warnings.warn(
                    f"a {kind} in {self.name} has the static part {given}, and had {stored} when "
                    "this program was exported: the program goes by what it had then",
                    stacklevel=users_level(),
                )

    def _check_paths(self, paths: list[str]) -> None:
        stored = [path for path, _ in self.entries]
        if paths == stored:
            return
        known, given = {*stored}, {*paths}
        missing = next((path for path in stored if path not in given), None)
        extra = next((path for path in paths if path not in known), None)
        if missing is not None:
            more = "" if extra is None else f", and {self.name}{extra} is not a leaf of it"
            raise TypeError(
                f"{self.name} has no leaf {self.name}{missing}, which this program was exported "
                f"for{more}"
            )
        if extra is not None:
            raise TypeError(
                f"{self.name}{extra} is not a leaf of what this program was exported for"
            )
        raise TypeError(f"the leaves of {self.name} have another order than when it was exported")


def describe_constant(value: Any) -> str:
    """What is stored of a leaf that is not an array, and compared with the leaf of a call.

    It is a constant of the program. Strings and bytes are themselves, functions and classes their
    qualified name, and other objects the name of their class.
    """
    if isinstance(value, (str, bytes)):
        return repr(value)
    if isinstance(value, functools.partial):
        return f"a partial of {describe_constant(value.func)}"
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return name
    return f"an object of {type(value).__qualname__}"


def to_json(tree: Tree) -> dict:
    """An argument."""
    leaves, constants = iter(tree.leaves), iter(tree.constants)
    paths = jax.tree_util.tree_flatten_with_path(tree.rebuild([0] * len(tree.leaves)))[0]
    entries = [
        {"path": jax.tree_util.keystr(path)}
        | (
            _leaf_to_json(next(leaves))
            if keep
            else {"constant": describe_constant(next(constants))}
        )
        for (path, _), keep in zip(paths, tree.is_array, strict=True)
    ]
    return {
        "leaves": entries,
        "static": [{"class": kind, "part": part} for kind, part in static_parts(tree.structure)],
    }


def from_json(name: str, fields: Fields) -> StoredTree:
    """The argument of that name.

    Raises:
      ValueError: an entry is not as it must be.
    """
    entries: list[tuple[str, Leaf | str]] = []
    for entry in fields.objects("leaves"):
        path = entry.text("path")
        if "constant" in entry:
            entries.append((path, entry.text("constant")))
        else:
            entries.append((path, _leaf_from_json(name + path, entry)))
    static = [(part.text("class"), part.text("part")) for part in fields.objects("static")]
    return StoredTree(name, tuple(entries), static)


def _leaf_to_json(leaf: Leaf) -> dict:
    weak = {"weak": True} if getattr(leaf.aval, "weak_type", False) else {}
    if leaf.is_key:
        return {"key": key_impl(leaf.aval.dtype), "shape": list(leaf.aval.shape)}
    return avals.to_json(leaf.aval) | weak


def _leaf_from_json(path: str, fields: Fields) -> Leaf:
    if "key" in fields:
        # The dtype of key data, for which no key array has to be made.
        plain = avals.from_json(Fields({"shape": fields.any("shape"), "dtype": "uint32"}, path))
        aval = jax.ShapeDtypeStruct(plain.shape, _key_dtype(path, fields.text("key")))
    else:
        plain = avals.from_json(fields)
        weak = "weak" in fields and fields.flag("weak")
        aval = jax.ShapeDtypeStruct(plain.shape, plain.dtype, weak_type=weak)
    return Leaf(path, aval, stored_aval(aval))


def _key_dtype(path: str, implementation: str) -> Any:
    try:
        return jax.eval_shape(lambda: jax.random.key(0, impl=implementation)).dtype
    except (ValueError, TypeError):
        raise ValueError(
            f"{path} is a key of the generator {implementation!r}, which this JAX does not know"
        ) from None


# --- Structures of auxiliary outputs --------------------------------------------------------------


def structure_to_json(tree: Tree) -> Any:
    """An auxiliary output.

    Raises:
      TypeError: it has a node or a constant that cannot be stored; the message names it.
    """
    leaves: list[Any] = []
    remaining, constants = iter(tree.leaves), iter(tree.constants)
    for keep in tree.is_array:
        leaves.append(_Array(next(remaining)) if keep else next(constants))
    return _to_json(tree.name, jax.tree.unflatten(tree.structure, leaves))


@dataclasses.dataclass(frozen=True)
class _Array:
    leaf: Leaf


def _to_json(path: str, node: Any) -> Any:
    if isinstance(node, _Array):
        return {"array": {"path": node.leaf.path} | _leaf_to_json(node.leaf)}
    if node is None:
        return {"none": True}
    if type(node) is str:
        return {"text": node}
    if type(node) is dict and all(type(key) is str for key in node):
        return {
            "dict": [
                [key, _to_json(f"{path}[{key!r}]", value)] for key, value in sorted(node.items())
            ]
        }
    if type(node) in (list, tuple):
        return {type(node).__name__: [_to_json(f"{path}[{i}]", x) for i, x in enumerate(node)]}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        fields = [[name, _to_json(f"{path}.{name}", x)] for name, x in zip(node._fields, node)]
        return {"namedtuple": {"name": type(node).__name__, "fields": fields}}
    raise TypeError(
        f"{path} is a {type(node).__qualname__}, which an exported file does not hold: return "
        "dicts with string keys, lists, tuples, named tuples, arrays or strings there"
    )


_DEEPEST = 100


def structure_from_json(name: str, fields: Fields) -> Tree:
    """The auxiliary output. Named tuples are of new classes, with the same names and fields.

    Raises:
      ValueError: it is not as it must be.
    """
    leaves: list[Leaf] = []
    value = _from_json(fields, leaves, 0)
    flat, structure = jax.tree.flatten(value)
    if [leaf for leaf in flat if isinstance(leaf, Leaf)] != leaves:
        raise ValueError(f"{fields.place} is not in the order of its leaves")
    constants = tuple(leaf for leaf in flat if not isinstance(leaf, Leaf))
    return Tree(
        name,
        tuple(leaves),
        constants,
        tuple(isinstance(leaf, Leaf) for leaf in flat),
        structure,
    )


def _from_json(fields: Fields, leaves: list[Leaf], depth: int) -> Any:
    kinds = list(fields)
    if len(kinds) != 1 or depth > _DEEPEST:
        raise ValueError(f"{fields.place} is not one node, or nested more than {_DEEPEST} deep")
    (kind,) = kinds
    if kind == "array":
        array = fields.object("array")
        leaves.append(_leaf_from_json(array.text("path"), array))
        return leaves[-1]
    if kind == "none":
        return None
    if kind == "text":
        return fields.any_text("text")
    if kind in ("list", "tuple"):
        items = [_from_json(item, leaves, depth + 1) for item in fields.objects(kind)]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return dict(_named(fields.sequence("dict"), fields.place, leaves, depth))
    if kind == "namedtuple":
        described = fields.object("namedtuple")
        named = dict(_named(described.sequence("fields"), described.place, leaves, depth))
        return _named_tuple(described.text("name"), tuple(named))(**named)
    raise ValueError(f"{fields.place} is of an unknown kind, {kind!r}")


def _named(pairs: list, place: str, leaves: list[Leaf], depth: int) -> list[tuple[str, Any]]:
    result = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(f"{place} is not a list of names and nodes")
        name, node = pair
        result.append((name, _from_json(Fields(node, f"{place}[{name!r}]"), leaves, depth + 1)))
    if len({name for name, _ in result}) < len(result):
        raise ValueError(f"{place} has a name twice")
    return result


@functools.cache
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    for word in (name, *fields):
        # `namedtuple` makes source text of them.
        if not word.isidentifier() or keyword.iskeyword(word) or word.startswith("_"):
            raise ValueError(f"{word!r} cannot be a name in a named tuple")
    return collections.namedtuple(name, fields)
