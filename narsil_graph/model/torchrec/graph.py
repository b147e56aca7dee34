"""What a TorchRec DLRM's forward does, followed back from the value it returns.

Only one computation is understood, the one that narsil-graph serves: every operation on the way from the score to
the inputs must be the expected one, so an archive that computes anything else is refused, never misread.
"""

from dataclasses import dataclass

from narsil_graph.model.torchrec.pickled import ImportRefused
from narsil_graph.model.torchrec.scripted import Call, Name, Node, returned_value

MODULE = "self."
FORWARD = ".forward"
FLOAT32 = 6
KEYED_JAGGED_TENSOR = "__torch__.torchrec.sparse.jagged_tensor.KeyedJaggedTensor"
KEYED_TENSOR = "__torch__.torchrec.sparse.jagged_tensor.KeyedTensor"
PERMUTE_KJT = "__torch__.torchrec.quant.embedding_modules._permute_kjt"
UNWRAP_KJT = "__torch__.torchrec.quant.embedding_modules._fx_trec_unwrap_kjt"
CAT_EMBEDDINGS = "__torch__.torchrec.quant.embedding_modules._cat_embeddings"
FLATTEN_LENGTHS = "__torch__.torchrec.distributed.quant_embeddingbag.flatten_feature_lengths"


@dataclass(frozen=True, slots=True)
class Graph:
    """The modules, buffers and names of a DLRM's forward; modules and buffers as dotted names from ``self``.

    ``input_keys`` is the order of the features in a request, ``lookup_order`` the index in it of each feature of
    the embedding, ``embedding_names`` the name of each feature of the embedding and ``interaction_names`` the order
    in which they meet in the dots.
    """

    dense_layers: tuple[str, ...]
    over_layers: tuple[str, ...]
    dot_rows: str
    dot_columns: str
    embedding: str
    input_keys: tuple[str, ...]
    lookup_order: tuple[int, ...]
    embedding_names: tuple[str, ...]
    interaction_names: tuple[str, ...]


def read_graph(code: str, class_name: str) -> Graph:
    """Raises ImportRefused when the forward is not that of a TorchRec DLRM with a sigmoid."""
    output = returned_value(code, class_name)
    match output:
        case Call("{}", (str(), score)):
            pass
        case _:
            raise ImportRefused("its forward does not return a dict with one entry")
    logits = _arguments(_skip_reshape(_skip_cast(score)), "torch.sigmoid", "its score", count=1)[0]
    match logits:
        case Call(name, (hidden,)) if name.startswith(MODULE) and name.endswith(FORWARD):
            final = name.removesuffix(FORWARD)
        case _:
            raise ImportRefused(f"its over arch does not end in a linear layer but in {_kind(logits)}")
    hidden_layers, interacted = _relu_layers(hidden)
    parts, _ = _arguments(interacted, "torch.cat", "the input of its over arch", count=2)
    match parts:
        case (dense_vector, dots):
            pass
        case _:
            raise ImportRefused("the input of its over arch is not [dense vector, dots]")
    dense_layers, dense_input = _relu_layers(dense_vector)
    _expect_input(dense_input, "the input of its dense arch")
    dot_rows, dot_columns, vectors = _read_interaction(dots, dense_vector)
    embedding, embedding_names, interaction_names, lookup = _read_vectors(vectors)
    input_keys, lookup_order = _read_features(lookup)
    return Graph(
        dense_layers=dense_layers,
        over_layers=(*hidden_layers, final),
        dot_rows=dot_rows,
        dot_columns=dot_columns,
        embedding=embedding,
        input_keys=input_keys,
        lookup_order=lookup_order,
        embedding_names=embedding_names,
        interaction_names=interaction_names,
    )


def _relu_layers(node: Node) -> tuple[tuple[str, ...], Node]:
    """The modules of a chain of ReLU(module(...)) in the order of use, and what goes into the first."""
    layers: list[str] = []
    while isinstance(node, Call) and node.name != "[]" and node.name != "torch.cat":
        (activated,) = _arguments(node, "torch.relu", "a step between its layers", count=1)
        match activated:
            case Call(name, (source,)) if name.startswith(MODULE) and name.endswith(FORWARD):
                layers.append(name.removesuffix(FORWARD))
                node = source
            case _:
                raise ImportRefused(f"a ReLU is not applied to a layer but to {_kind(activated)}")
    return tuple(reversed(layers)), node


def _read_interaction(dots: Node, dense_vector: Node) -> tuple[str, str, Node]:
    """The two index buffers of the pairs and the stacked feature vectors [batch, features, dim]."""
    match dots:
        case Call("torch.index", (Call("torch.slice", (products, 0, 0, _)), (None, Name(rows), Name(columns)))):
            left, right = _arguments(products, "torch.bmm", "its interaction", count=2)
        case _:
            raise ImportRefused("its interaction does not pick the dots by two index buffers")
    match right:
        case Call("torch.transpose", (source, 1, 2)) if source is left:
            pass
        case _:
            raise ImportRefused("its interaction does not multiply the vectors with themselves")
    match left:
        case Call("torch.cat", ((Call("torch.unsqueeze", (first, 1)), vectors), 1)) if first is dense_vector:
            return rows, columns, vectors
        case _:
            raise ImportRefused("the vectors of its interaction are not [dense vector, embeddings]")


def _read_vectors(vectors: Node) -> tuple[str, tuple[str, ...], tuple[str, ...], Call]:
    """The embedding module, its feature names, the names in order of interaction, and the call of the module."""
    stacked, shape = _arguments(vectors, "torch.reshape", "the stack of its embeddings", count=2)
    items, _ = _arguments(stacked, "torch.cat", "the stack of its embeddings", count=2)
    by_name: list[str] = []
    sources: list[Node] = []
    for item in items if isinstance(items, tuple) else ():
        match item:
            case Call("[]", (Call(".to_dict", (source,)), str(name))):
                by_name.append(name)
                sources.append(source)
            case _:
                raise ImportRefused(f"one of its stacked embeddings is {_kind(item)}")
    match shape:
        case (-1, count, _) if count == len(sources):
            pass
        case _:
            raise ImportRefused("the stack of its embeddings is not [batch, features, dim]")
    if not sources or any(source is not sources[0] for source in sources):
        raise ImportRefused("its embeddings do not come from one collection")
    match sources[0]:
        case Call(name, (names, _, pooled, 1, *_)) if name == KEYED_TENSOR:
            lookup = _skip_cast(pooled)
        case other:
            raise ImportRefused(f"its embeddings come from {_kind(other)}")
    match lookup:
        case Call("torch.cat", ((_, _, *_), *_)):
            raise ImportRefused("it has more than one table-batched embedding")
        case Call(name, ((module, *more),)) if name == CAT_EMBEDDINGS:
            if more:
                raise ImportRefused("it has more than one table-batched embedding")
            lookup = module
        case _:
            pass
    if not isinstance(lookup, Call) or not lookup.name.startswith(MODULE) or not lookup.name.endswith(FORWARD):
        raise ImportRefused(f"its embeddings come from {_kind(lookup)}, want a table-batched embedding")
    return lookup.name.removesuffix(FORWARD), _strings(names), tuple(by_name), lookup


def _read_features(lookup: Call) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The keys of the request in order, and for each feature of the embedding the index of its key."""
    match lookup.arguments:
        case (_, _, weights) if weights is not None:
            raise ImportRefused("its features are weighted, and only unweighted ones are served")
        case (Call(".values", (features,)), Call("torch.to", (Call(".offsets", (same,)), *_)), None):
            pass
        case (Call("[]", (Call(name, (features,)) as pair, 0)), Call("[]", (other, 1)), None) if name == UNWRAP_KJT:
            same = features if other is pair else None
        case _:
            raise ImportRefused("its table-batched embedding is not given the values and offsets of its features")
    if same is not features:
        raise ImportRefused("the values and the offsets of its features come from two places")
    order: tuple[int, ...] | None = None
    node = features
    while True:
        match node:
            case Call(".to", (source, *_)) | Call("[]", (Call(".split", (source, (_,))), 0)):
                node = source
            case Call(name, (source,)) if name == FLATTEN_LENGTHS:
                node = source
            case Call(name, (source, tuple(indices), *_)) if name in (".permute", PERMUTE_KJT) and order is None:
                order = _indices(indices)
                node = source
            case Call("[]", (Call(".split"), _)):
                raise ImportRefused("it has more than one table-batched embedding")
            case Call(name, (names, values, None, lengths, *_)) if name == KEYED_JAGGED_TENSOR:
                keys = _strings(names)
                _expect_input(values, "the values of its features")
                _expect_input(lengths, "the lengths of its features")
                return keys, tuple(range(len(keys))) if order is None else order
            case _:
                raise ImportRefused(f"its features go through {_kind(node)}, which is not understood")


def _arguments(node: Node, name: str, what: str, *, count: int) -> tuple[Node, ...]:
    if not isinstance(node, Call) or node.name != name or len(node.arguments) != count:
        raise ImportRefused(f"{what} is {_kind(node)}, want {name}")
    return node.arguments


def _expect_input(node: Node, what: str) -> None:
    match node:
        case Call("[]", (Name(), str())):
            pass
        case _:
            raise ImportRefused(f"{what} is {_kind(node)}, want one of the inputs")


def _skip_cast(node: Node) -> Node:
    """What is moved to a device or cast to float32."""
    while True:
        match node:
            case Call("torch.to", (source, target, *_)):
                if not isinstance(target, Call) and target != FLOAT32:
                    raise ImportRefused(f"it casts values to the type {_kind(target)}, want float32")
                node = source
            case _:
                return node


def _skip_reshape(node: Node) -> Node:
    return node.arguments[0] if isinstance(node, Call) and node.name == "torch.reshape" else node


def _strings(node: Node) -> tuple[str, ...]:
    names = [item for item in node if isinstance(item, str)] if isinstance(node, tuple) else []
    if not isinstance(node, tuple) or len(names) != len(node):
        raise ImportRefused("the names of its features are not a list of strings")
    return tuple(names)


def _indices(node: tuple[Node, ...]) -> tuple[int, ...]:
    indices = [item for item in node if isinstance(item, int)]
    if len(indices) != len(node):
        raise ImportRefused("the order of its features is not a list of numbers")
    return tuple(indices)


def _kind(node: Node) -> str:
    """A node in the words of a refusal."""
    match node:
        case Call(name, _) | Name(name):
            return name
        case tuple():
            return "a list"
        case _:
            return repr(node)
