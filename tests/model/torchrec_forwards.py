"""The text of a scripted DLRM forward, statement for statement as TorchRec 1.8 and torch 2.13 print it."""

from collections.abc import Sequence

JAGGED = "__torch__.torchrec.sparse.jagged_tensor"
QUANT = "__torch__.torchrec.quant.embedding_modules"
FLATTEN = "__torch__.torchrec.distributed.quant_embeddingbag.flatten_feature_lengths"
EMBEDDING = "self._module.sparse_arch.embedding_bag_collection"


def forward_text(
    *,
    sharded: bool,
    keys: Sequence[str],
    lookup: Sequence[str],
    dots: Sequence[str],
    dim: int,
    dense_layers: int,
    over_hidden_layers: int,
) -> str:
    """``keys``, ``lookup`` and ``dots`` order the features in the request, the embedding and the interaction."""
    order = [keys.index(name) for name in lookup]
    embed = _sharded_lookup if sharded else _quantised_lookup
    body = [
        'getitem = batch["float_features"]',
        'getitem_1 = batch["id_list_features.lengths"]',
        'getitem_2 = batch["id_list_features.values"]',
        f"_keys = {_texts(keys)}",
        f"kjt = {JAGGED}.KeyedJaggedTensor.__new__({JAGGED}.KeyedJaggedTensor)",
        f"_5 = (kjt).__init__(_keys, getitem_2, None, getitem_1, {'None, ' * 10})",
        *_mlp("self._module.dense_arch.model._mlp", dense_layers, source="getitem", result="dense"),
        *embed(order),
        f"_names = {_texts(lookup)}",
        f"_dims = {[dim] * len(lookup)}",
        f"keyed_tensor = {JAGGED}.KeyedTensor.__new__({JAGGED}.KeyedTensor)",
        "_9 = (keyed_tensor).__init__(_names, _dims, pooled, 1, None, None, )",
        *_interaction(dots, dim),
        'over = getattr(self._module.over_arch.model, "0")._mlp',
        *_mlp("over", over_hidden_layers, source="cat_2", result="hidden"),
        'final = getattr(self._module.over_arch.model, "1")',
        "logits = (final).forward(hidden, )",
        "sigmoid = torch.sigmoid(logits)",
        "size = torch.size(sigmoid)",
        "reshape_1 = torch.reshape(sigmoid, [size[0]])",
        'to = torch.to(reshape_1, torch.device("cpu"), None, True)',
        "float_1 = torch.to(to, 6)",
        '_15 = unchecked_cast(Any, {"default": float_1})',
        "return _15",
    ]
    head = ["class GraphModule(Module):", "  __parameters__ = []", "  training : bool"]
    signature = (
        "  def forward(self: __torch__.torch.fx.graph_module.GraphModule,\n    batch: Dict[str, Tensor]) -> Any:"
    )
    return "\n".join([*head, signature, *(f"    {line}" for line in body)]) + "\n"


def _interaction(dots: Sequence[str], dim: int) -> list[str]:
    return [
        "to_dict = (keyed_tensor).to_dict()",
        *(f'picked_{place} = to_dict["{name}"]' for place, name in enumerate(dots)),
        f"cat = torch.cat([{', '.join(f'picked_{place}' for place in range(len(dots)))}], 1)",
        f"reshape = torch.reshape(cat, [-1, {len(dots)}, {dim}])",
        "unsqueeze = torch.unsqueeze(dense, 1)",
        "cat_1 = torch.cat([unsqueeze, reshape], 1)",
        "transpose = torch.transpose(cat_1, 1, 2)",
        "bmm = torch.bmm(cat_1, transpose)",
        "_tensor_constant0 = self._tensor_constant0",
        "_tensor_constant1 = self._tensor_constant1",
        "_11 = torch.slice(bmm, 0, 0, 9223372036854775807)",
        "_12 = annotate(List[Optional[Tensor]], [None, _tensor_constant0, _tensor_constant1])",
        "dots = torch.index(_11, _12)",
        "cat_2 = torch.cat([dense, dots], 1)",
    ]


def _mlp(path: str, layers: int, *, source: str, result: str) -> list[str]:
    lines = [f"{result} = {source}"]
    for layer in range(layers):
        lines += [
            f'_layer = getattr({path}, "{layer}")._linear',
            f"linear = (_layer).forward({result}, )",
            f"{result} = torch.relu(linear)",
        ]
    return lines


def _sharded_lookup(order: Sequence[int]) -> list[str]:
    ordered = list(order) == sorted(order)
    return [
        f"_0 = {FLATTEN}",
        "features = _0(kjt, )" if ordered else f"features = (kjt).permute({list(order)}, {EMBEDDING}._order, )",
        f"split = (features).split([{len(order)}], )",
        "getitem_3 = split[0]",
        'moved = (getitem_3).to(torch.device("cpu"), True, None, )',
        "values = (moved).values()",
        "offsets = (moved).offsets()",
        "getattr_1 = ops.prim.dtype(values)",
        "type_1 = torch.to(offsets, getattr_1)",
        f'tbe = getattr({EMBEDDING}.tbes, "0")',
        "looked_up = (tbe).forward(values, type_1, None, )",
        'pooled = torch.to(looked_up, torch.device("cpu"))',
    ]


def _quantised_lookup(order: Sequence[int]) -> list[str]:
    return [
        f"_1 = {QUANT}._permute_kjt",
        f"_2 = {QUANT}._fx_trec_unwrap_kjt",
        f"_3 = {QUANT}._cat_embeddings",
        f"features = _1(kjt, {list(order)}, {EMBEDDING}._features_order_tensor, )",
        f"split = (features).split([{len(order)}], )",
        "getitem_3 = split[0]",
        "pair = _2(getitem_3, )",
        "getitem_4 = (pair)[0]",
        "getitem_5 = (pair)[1]",
        f'tbe = getattr({EMBEDDING}.tbes, "0")',
        "looked_up = (tbe).forward(getitem_4, getitem_5, None, )",
        "_6 = [looked_up]",
        "pooled = _3(_6, )",
    ]


def _texts(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
