"""The text of a scripted ``forward`` as an expression tree. It is parsed, never compiled and never run."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from narsil_graph.model.torchrec.pickled import ImportRefused


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name that the text does not assign: a module (``self.a.b``), a function, an input."""

    dotted: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operation on values. ``name`` is dotted for functions and modules, ``.name`` for methods of a value,
    ``[]`` for an index and ``{}`` for a dict (keys and values in turn). Two uses of one value are one object."""

    name: str
    arguments: "tuple[Node, ...]"


Node = Name | Call | tuple["Node", ...] | str | int | float | bool | None


def returned_value(code: str, class_name: str) -> Node:
    """What ``class_name.forward`` in ``code`` returns. Raises ImportRefused for text that is not straight-line."""
    try:
        return _Forward(_find_forward(ast.parse(code), class_name)).value()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ImportRefused("the code of its forward cannot be parsed") from None


def _find_forward(tree: ast.Module, class_name: str) -> Sequence[ast.stmt]:
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and owner.name == class_name:
            for method in owner.body:
                if isinstance(method, ast.FunctionDef) and method.name == "forward":
                    return method.body
    raise ImportRefused(f"its class {class_name} has no forward")


class _Forward:
    """The values that the statements so far gave to names."""

    def __init__(self, statements: Sequence[ast.stmt]) -> None:
        self._statements = statements
        self._values: dict[str, Node] = {}

    def value(self) -> Node:
        for statement in self._statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=target)], value=expression):
                    self._values[target] = self._node(expression)
                case ast.Return(value=ast.expr() as expression):
                    return self._node(expression)
                case _:
                    raise ImportRefused(f"its forward has a statement of an unknown kind, {type(statement).__name__}")
        raise ImportRefused("its forward returns nothing")

    def _node(self, expression: ast.expr) -> Node:
        match expression:
            case ast.Constant(value=str() | int() | float() | None as constant):
                return constant
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as constant)):
                return -constant
            case ast.Name(id=name):
                return self._values.get(name, Name(name))
            case ast.Attribute(value=owner, attr=attribute):
                node = self._node(owner)
                return Name(f"{node.dotted}.{attribute}") if isinstance(node, Name) else Call(f".{attribute}", (node,))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return tuple(self._node(element) for element in elements)
            case ast.Subscript(value=owner, slice=index):
                return Call("[]", (self._node(owner), self._node(index)))
            case ast.Dict(keys=keys, values=values):
                pairs = zip(keys, values, strict=True)
                return Call("{}", tuple(self._node(part) for pair in pairs for part in pair if part is not None))
            case ast.Call(func=function, args=arguments, keywords=[]):
                return self._call(function, arguments)
            case _:
                raise ImportRefused(f"its forward has an expression of an unknown kind, {type(expression).__name__}")

    def _call(self, function: ast.expr, operands: Sequence[ast.expr]) -> Node:
        arguments = tuple(self._node(operand) for operand in operands)
        match self._node(function), arguments:
            case Name("getattr"), (Name(dotted), str(attribute)):
                return Name(f"{dotted}.{attribute}")
            case Name("annotate" | "unchecked_cast"), (_, value):
                return value
            case Name(dotted), _:
                return Call(dotted, arguments)
            case Call(".__init__", (Call(constructor),)), _ if constructor.endswith(".__new__"):
                # TorchScript makes an object in two statements; the second one is the value from here on.
                made = Call(constructor.removesuffix(".__new__"), arguments)
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                    self._values[function.value.id] = made
                return made
            case Call(method, (owner,)), _ if method.startswith("."):
                return Call(method, (owner, *arguments))
            case _:
                raise ImportRefused("its forward calls something that is not a function")
