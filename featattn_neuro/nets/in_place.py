"""Steps of a traced network that overwrite a map which is read again, perhaps under another name."""

from __future__ import annotations

from torch import fx, nn

_VIEWS = {
    *("view", "view_as", "reshape", "flatten", "unflatten", "getitem", "permute", "transpose", "movedim", "squeeze"),
    *("unsqueeze", "expand", "chunk", "split", "unbind", "narrow", "select", "detach", "contiguous", "dropout", "to"),
}
"""Operations whose result may be their input under another name."""

_RENAMING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten)

_IN_PLACE = {f"i{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}


def reused_in_place(module: nn.Module, graph: fx.Graph) -> str | None:
    """Name of a step that overwrites a map which a later step reads, perhaps under another name: cut there, the graph
    would read other values.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    owners: dict[fx.Node, fx.Node] = {}
    named: dict[fx.Node, list[fx.Node]] = {}
    for node, place in order.items():
        works = _works_in_place(module, node)
        if works:
            same = named[owners[node.all_input_nodes[0]]]
            if any(order[user] > place for one in same for user in one.users):
                return node.name
        renames = works or _may_rename(module, node)
        owners[node] = owners[node.all_input_nodes[0]] if renames else node
        named.setdefault(owners[node], []).append(node)
    return None


def _may_rename(module: nn.Module, node: fx.Node) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _RENAMING)
    return node.op in ("call_function", "call_method") and _called(node) in _VIEWS


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _works_in_place(module: nn.Module, node: fx.Node) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    name = _called(node)
    if node.op == "call_function" and (node.kwargs.get("inplace") or name in _IN_PLACE):
        return True
    return node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")
